//! How the presets are pretrained where the user does not say.

use crate::train::schedule::ScheduleKind;
use crate::train::settings::{Cadence, Duration, Recipe, Warmup};

/// Training defaults that go with a preset.
pub struct PresetRecipe {
    pub run: Recipe,
    /// Standard deviation of initial weights.
    pub init_std: f32,
    pub tokenizer: &'static str,
}

impl PresetRecipe {
    /// The recipe of a preset; of sizes without a preset where there is none.
    pub fn of(preset: Option<&str>) -> PresetRecipe {
        let run = Recipe {
            batch: 8,
            accumulate: 64,
            duration: Duration::Steps(19_000),
            lr: 6e-4,
            min_lr_divisor: 10.0,
            warmup: Warmup::Steps(700),
            schedule: ScheduleKind::Cosine,
            weight_decay: 0.1,
            beta2: 0.95,
            dropout: 0.0,
            every: Cadence::Steps(250),
        };
        let small = Recipe {
            batch: 8,
            accumulate: 1,
            duration: Duration::Steps(1400),
            lr: 3e-3,
            warmup: Warmup::Steps(100),
            beta2: 0.99,
            every: Cadence::Steps(200),
            ..run
        };
        match preset {
            // Sizes without a preset: nanoGPT's recipe for small models, from initial values that train better than its 0.02
            // (BENCHMARKS.md, "Initial values").
            None => PresetRecipe {
                run: Recipe {
                    batch: 12,
                    accumulate: 1,
                    duration: Duration::Steps(2000),
                    lr: 1e-3,
                    warmup: Warmup::Steps(100),
                    beta2: 0.99,
                    ..run
                },
                init_std: 0.05,
                tokenizer: "char",
            },
            // As small, and of as many steps as the demo; the papers' dropout would keep so small models from learning.
            Some("bert-mini") => PresetRecipe { run: small, init_std: 0.05, tokenizer: "wordpiece" },
            Some("transfo-xl-mini") => PresetRecipe { run: small, init_std: 0.05, tokenizer: "char" },
            Some("t5-mini") => PresetRecipe { run: small, init_std: 1.0, tokenizer: "unigram" },
            // Chosen by trial: grammatical samples within three minutes on two CPU cores.
            Some("demo" | "gpt-mini" | "llama-mini" | "mixtral") => PresetRecipe {
                run: Recipe {
                    batch: 4,
                    accumulate: 1,
                    duration: Duration::Steps(1400),
                    lr: 6e-3,
                    warmup: Warmup::Steps(50),
                    beta2: 0.99,
                    every: Cadence::Steps(200),
                    ..run
                },
                init_std: 0.1,
                tokenizer: "char",
            },
            // The paper's: 128 rows, four million steps.
            Some("transfo-xl-wt103") => PresetRecipe {
                run: Recipe {
                    accumulate: 16,
                    duration: Duration::Steps(4_000_000),
                    lr: 2.5e-4,
                    min_lr_divisor: f32::INFINITY,
                    warmup: Warmup::Steps(16_000),
                    weight_decay: 0.0,
                    beta2: 0.999,
                    dropout: 0.2,
                    every: Cadence::Steps(1000),
                    ..run
                },
                init_std: 0.02,
                tokenizer: "bytes",
            },
            // The paper's: 256 sequences of 512 tokens, a million steps.
            Some("bert-base" | "bert-large") => PresetRecipe {
                run: Recipe {
                    accumulate: 32,
                    duration: Duration::Steps(1_000_000),
                    lr: 1e-4,
                    min_lr_divisor: f32::INFINITY,
                    warmup: Warmup::Steps(10_000),
                    schedule: ScheduleKind::Linear,
                    weight_decay: 0.01,
                    beta2: 0.999,
                    dropout: 0.1,
                    every: Cadence::Steps(1000),
                    ..run
                },
                init_std: 0.02,
                tokenizer: "wordpiece",
            },
            // The paper's 128 sequences of 512 tokens, 524,288 steps, its rate falling as the square root of the step from 10,000 on; here by
            // AdamW and a cosine to a tenth.
            Some("t5-small" | "t5-base") => PresetRecipe {
                run: Recipe {
                    accumulate: 16,
                    duration: Duration::Steps(524_288),
                    lr: 1e-3,
                    warmup: Warmup::Steps(10_000),
                    weight_decay: 0.0,
                    beta2: 0.999,
                    dropout: 0.1,
                    every: Cadence::Steps(1000),
                    ..run
                },
                init_std: 1.0,
                tokenizer: "unigram",
            },
            // nanoGPT's settings for its character model.
            Some("char") => PresetRecipe {
                run: Recipe {
                    batch: 64,
                    accumulate: 1,
                    duration: Duration::Steps(5000),
                    lr: 1e-3,
                    warmup: Warmup::Steps(100),
                    beta2: 0.99,
                    dropout: 0.2,
                    ..run
                },
                init_std: 0.02,
                tokenizer: "char",
            },
            // The paper's: 64 sequences of 512 tokens, 100 epochs of 800 million words.
            Some("gpt") => PresetRecipe {
                run: Recipe {
                    accumulate: 8,
                    duration: Duration::Steps(3_000_000),
                    lr: 2.5e-4,
                    warmup: Warmup::Steps(2000),
                    weight_decay: 0.01,
                    beta2: 0.999,
                    dropout: 0.1,
                    every: Cadence::Steps(1000),
                    ..run
                },
                init_std: 0.02,
                tokenizer: "bytes",
            },
            // nanoGPT's and llm.c's settings for GPT-2: half a million tokens per step.
            Some(_) => PresetRecipe { run, init_std: 0.02, tokenizer: "bytes" },
        }
    }
}
