//! Plans as JSON, and the texts of their kernels, each once.

use super::File;
use crate::error::Result;
use crate::graph::memory::Class;
use crate::graph::plan::{Bound, Command, Kernel};
use crate::graph::{Dtype, Plan, Shape};
use crate::shaders::specialise;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The plans of a page.
#[derive(Default)]
pub struct Plans {
    files: Vec<File>,
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
    prefix: String,
    buffer_bytes: u64,
    binding_bytes: u64,
}

impl Plans {
    /// Adds a plan and returns the name of its file.
    pub fn add(&mut self, name: &str, plan: &Plan) -> Result<String> {
        let segments: Vec<Value> = plan
            .segments
            .iter()
            .map(|segment| {
                let commands: Vec<Value> = segment.commands.iter().map(|command| self.command(command)).collect();
                json!({"name": segment.name, "commands": commands})
            })
            .collect();
        let buffers = plan.buffers.iter().map(|buffer| {
            self.buffer_bytes = self.buffer_bytes.max(buffer.size_bytes);
            json!({"bytes": buffer.size_bytes, "state": buffer.class == Class::State})
        });
        let buffers: Vec<Value> = buffers.collect();
        let states = plan.states.iter().map(|state| {
            json!({"name": state.name, "buffer": state.buffer, "start": state.start_byte, "bytes": state.shape.size_bytes()})
        });
        let tensor = |(name, buffer, shape): &(String, usize, Shape)| {
            let dtype = match shape.dtype {
                Dtype::F32 => "f32",
                Dtype::F16 => "f16",
                Dtype::U32 => "u32",
            };
            json!({"name": name, "buffer": buffer, "bytes": shape.size_bytes(), "dims": shape.dims, "type": dtype})
        };
        let file = format!("plans/{}{name}.json", self.prefix);
        let text = json!({
            "buffers": buffers,
            "states": states.collect::<Vec<_>>(),
            "inputs": plan.inputs.iter().map(tensor).collect::<Vec<_>>(),
            "outputs": plan.outputs.iter().map(tensor).collect::<Vec<_>>(),
            "segments": segments,
        });
        self.files.push((file.clone(), text.to_string().into_bytes()));
        Ok(file)
    }

    /// Has plans added in a folder of their own.
    pub fn within<T>(&mut self, folder: &str, add: impl FnOnce(&mut Plans) -> Result<T>) -> Result<T> {
        self.prefix = format!("{folder}/");
        let added = add(self);
        self.prefix.clear();
        added
    }

    fn command(&mut self, command: &Command) -> Value {
        match command {
            Command::Copy { from, to, size_bytes } => json!({"copy": [from, to, size_bytes]}),
            Command::Dispatch(kernel) => {
                let bound = |Bound { buffer, range, writes }: &Bound| {
                    json!([buffer, range.start, range.end - range.start, u8::from(*writes)])
                };
                for Bound { range, .. } in &kernel.bindings {
                    self.binding_bytes = self.binding_bytes.max(range.end - range.start);
                }
                let bindings: Vec<Value> = kernel.bindings.iter().map(bound).collect();
                json!({"text": self.text(kernel), "bind": bindings, "groups": kernel.workgroups, "label": kernel.label})
            }
        }
    }

    /// The number of a kernel's text.
    fn text(&mut self, kernel: &Kernel) -> usize {
        let text = browser_text(specialise(kernel.shader, &kernel.constants, &kernel.swaps));
        *self.numbers.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            self.texts.len() - 1
        })
    }

    /// What a device must have.
    pub fn needs(&self) -> Value {
        let uses = |word: &str| self.texts.iter().any(|text| text.contains(word));
        let features = [("enable f16;", "shader-f16"), ("enable subgroups;", "subgroups")];
        let features: Vec<&str> = features.into_iter().filter(|(word, _)| uses(word)).map(|(_, name)| name).collect();
        let limits = json!({"maxBufferSize": self.buffer_bytes, "maxStorageBufferBindingSize": self.binding_bytes});
        json!({"features": features, "limits": limits})
    }

    pub fn files(self) -> Vec<File> {
        let texts = json!(self.texts).to_string().into_bytes();
        self.files.into_iter().chain([("shaders.json".to_string(), texts)]).collect()
    }
}

/// A kernel's text for a browser's compiler, which wants to be told of subgroups; naga knows no such line yet. Comments and indentation
/// stay at home.
fn browser_text(text: String) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let subgroups = text.match_indices("subgroup").any(|(at, word)| {
        text[at + word.len()..].starts_with(char::is_uppercase) && !text[..at].ends_with(|c: char| c.is_alphanumeric())
    });
    if subgroups && !text.contains("enable subgroups;") { format!("enable subgroups;\n{text}") } else { text }
}
