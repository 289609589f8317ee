//! Named model sizes.

use super::config::Config;
use super::{bert, gpt, gpt_neo, llama, t5, transfo_xl};
use crate::error::Result;
use crate::fail;
use crate::files::one_line;

/// A model size with a name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    pub name: &'static str,
    /// Its vocabulary is a default: the tokenizer in use decides.
    pub config: fn() -> Config,
}

/// The named sizes.
pub const PRESETS: [Preset; 29] = [
    Preset { name: "demo", config: || Config::new(256, 128, 4, 8, 64) },
    Preset { name: "char", config: || Config::new(256, 256, 6, 6, 384) },
    Preset { name: "gpt2", config: || Config::new(50257, 1024, 12, 12, 768) },
    Preset { name: "gpt2-medium", config: || Config::new(50257, 1024, 24, 16, 1024) },
    Preset { name: "gpt2-large", config: || Config::new(50257, 1024, 36, 20, 1280) },
    Preset { name: "gpt2-xl", config: || Config::new(50257, 1024, 48, 25, 1600) },
    Preset { name: "gpt", config: gpt::gpt },
    Preset { name: "gpt-mini", config: gpt::mini },
    Preset { name: "gpt3-125m", config: gpt_neo::small },
    Preset { name: "gpt3-350m", config: gpt_neo::medium },
    Preset { name: "gpt3-760m", config: gpt_neo::large },
    Preset { name: "gpt3-1.3b", config: gpt_neo::xl },
    Preset { name: "gpt3-2.7b", config: gpt_neo::b2_7 },
    Preset { name: "gpt3-6.7b", config: gpt_neo::b6_7 },
    Preset { name: "gpt3-13b", config: gpt_neo::b13 },
    Preset { name: "gpt3-175b", config: gpt_neo::b175 },
    Preset { name: "llama-mini", config: llama::mini },
    Preset { name: "mixtral", config: llama::mixtral },
    Preset { name: "smollm2-135m", config: llama::smollm2_135m },
    Preset { name: "smollm2-360m", config: llama::smollm2_360m },
    Preset { name: "bert-mini", config: bert::mini },
    Preset { name: "bert-base", config: bert::base },
    Preset { name: "bert-large", config: bert::large },
    Preset { name: "t5-mini", config: t5::mini },
    Preset { name: "t5-small", config: t5::small },
    Preset { name: "t5-base", config: t5::base },
    Preset { name: "transfo-xl-mini", config: transfo_xl::mini },
    Preset { name: "transfo-xl-wt103", config: transfo_xl::wt103 },
    Preset { name: "tinyllama-1.1b", config: llama::tinyllama_1_1b },
];

impl Config {
    /// The model of a [`Preset`]; an unknown name is a usage error that lists the known ones.
    pub fn preset(name: &str) -> Result<Self> {
        let Some(p) = PRESETS.iter().find(|preset| preset.name == name) else {
            let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
            fail!(Usage, "there is no preset {:?}; choose one of {}", one_line(name), known.join(", "));
        };
        Ok((p.config)())
    }
}
