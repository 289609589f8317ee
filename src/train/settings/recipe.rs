//! Training defaults of the presets.

/// Training defaults that go with a preset.
pub(super) struct Recipe {
    pub batch: usize,
    pub accumulate: usize,
    pub steps: u64,
    pub lr: f32,
    pub warmup: u64,
    pub weight_decay: f32,
    pub beta2: f64,
    pub dropout: f32,
    pub init_std: f32,
    pub every: u64,
    pub tokenizer: &'static str,
}

impl Recipe {
    pub fn of(preset: &str) -> Recipe {
        match preset {
            // Chosen by trial: grammatical samples within three minutes on two CPU cores.
            "demo" | "gpt-mini" | "llama-mini" | "mixtral" => Recipe {
                batch: 4,
                accumulate: 1,
                steps: 1400,
                lr: 6e-3,
                warmup: 50,
                weight_decay: 0.1,
                beta2: 0.99,
                dropout: 0.0,
                init_std: 0.1,
                every: 200,
                tokenizer: "char",
            },
            // nanoGPT's settings for its character model.
            "char" => Recipe {
                batch: 64,
                accumulate: 1,
                steps: 5000,
                lr: 1e-3,
                warmup: 100,
                weight_decay: 0.1,
                beta2: 0.99,
                dropout: 0.2,
                init_std: 0.02,
                every: 250,
                tokenizer: "char",
            },
            // The paper's: 64 sequences of 512 tokens, 100 epochs of 800 million words.
            "gpt" => Recipe {
                batch: 8,
                accumulate: 8,
                steps: 3_000_000,
                lr: 2.5e-4,
                warmup: 2000,
                weight_decay: 0.01,
                beta2: 0.999,
                dropout: 0.1,
                init_std: 0.02,
                every: 1000,
                tokenizer: "bytes",
            },
            // nanoGPT's and llm.c's settings for GPT-2: half a million tokens per step.
            _ => Recipe {
                batch: 8,
                accumulate: 64,
                steps: 19_000,
                lr: 6e-4,
                warmup: 700,
                weight_decay: 0.1,
                beta2: 0.95,
                dropout: 0.0,
                init_std: 0.02,
                every: 250,
                tokenizer: "bytes",
            },
        }
    }
}
