//! Windows of attention that a new model is given: which layers have them, and how folders say so.

use std::path::Path;
use wgpt::error::Result;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;

fn config(preset: &str, layers: usize, window: Option<usize>, every: Option<usize>) -> Result<Config> {
    let model = ModelChoices {
        preset: Some(preset.into()),
        layers: Some(layers),
        attention_window: window,
        window_every: every,
        ..ModelChoices::default()
    };
    model.config(50, 0.02)
}

/// The model type that is written, after checking that the file is read as the same model.
fn model_type(config: &Config) -> String {
    let text = config.to_json();
    // Files do not say how a model was initialised.
    let read = Config::from_json(&text, Path::new("config.json")).unwrap();
    assert_eq!(Config { scaled_residual: config.scaled_residual, ..read }, *config);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["model_type"].as_str().unwrap().into()
}

#[test]
fn layers_have_windows_as_asked_and_folders_say_so() {
    for (preset, window, every, full, name, is_foreign) in [
        ("demo", Some(16), None, &[][..], "wgpt-gpt2", true),
        ("demo", Some(16), Some(2), &[0, 2, 4], "wgpt-gpt2", true),
        ("demo", None, None, &[], "gpt2", false),
        ("llama-mini", Some(16), None, &[], "mistral", false),
        ("llama-mini", Some(16), Some(3), &[0, 3], "wgpt-llama", true),
        ("mixtral", Some(16), Some(2), &[0, 2, 4], "wgpt-llama", true),
        ("gpt3-125m", None, None, &[0, 2, 4], "gpt_neo", false),
        ("gpt3-125m", Some(16), Some(4), &[0, 4], "gpt_neo", false),
    ] {
        let config = config(preset, 5, window, every).unwrap();
        let preset_window = Config::preset(preset).unwrap().window;
        assert_eq!((config.window, &config.full_layers[..]), (window.or(preset_window), full), "{preset}");
        assert_eq!(model_type(&config), name, "{preset}");
        assert_eq!(config.family().foreign(&config).is_some(), is_foreign, "{preset}");
    }
    let one = config("demo", 1, Some(16), Some(2)).unwrap();
    assert_eq!((one.window, one.full_layers.len()), (None, 0), "its only layer sees all positions");
}

#[test]
fn windows_that_do_nothing_are_refused() {
    for (preset, window, every, words) in [
        ("demo", None, Some(2), "--attention-window"),
        ("demo", Some(8), Some(1), "2 or more"),
        ("demo", Some(0), None, "window (sliding_window) is 0"),
        ("bert-mini", Some(8), None, "bert-mini has its own attention"),
    ] {
        let error = config(preset, 4, window, every).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
