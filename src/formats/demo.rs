//! The demo model, trained by this program on its built-in stories (weights/demo/README.md) and compiled in.

use super::source::ModelSource;

/// A file of weights/demo.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo/", $name)) as &[u8])
    };
}

/// The demo model's files.
pub fn model() -> ModelSource {
    const FILES: &[(&str, &[u8])] = &[
        file!("config.json"),
        file!("generation_config.json"),
        file!("model.safetensors"),
        file!("tokenizer.json"),
        file!("tokenizer_config.json"),
    ];
    ModelSource::embedded("the demo model", FILES)
}
