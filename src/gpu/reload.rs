//! Shaders from disk in place of the built-in ones: what a kernel author edits is what runs.

use super::device::{Device, one_line};
use super::executor::Gpu;
use crate::error::{Error, Result};
use crate::fail;
use crate::graph::plan::{Command, Kernel};
use crate::graph::{Plan, Shader};
use crate::shaders::{Specialised, shared, specialise_from};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A shader's file and the shared files beside it, as they are on disk.
#[derive(Clone, Debug)]
pub struct ShaderFiles {
    folder: PathBuf,
    shader: Shader,
    /// Text of the shared files that the folder holds, by name; the others are the built-in ones.
    shared: HashMap<String, String>,
}

impl ShaderFiles {
    /// Reads `folder/stem.wgsl` and `folder/shared/*.wgsl`.
    pub fn read(folder: &Path, stem: &'static str) -> Result<ShaderFiles> {
        let path = folder.join(format!("{stem}.wgsl"));
        let source = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut shared = HashMap::new();
        let beside = folder.join("shared");
        if beside.is_dir() {
            for entry in std::fs::read_dir(&beside).map_err(Error::io("read", &beside))? {
                let path = entry.map_err(Error::io("read", &beside))?.path();
                if let (Some(name), Some("wgsl")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
                    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
                    shared.insert(name.to_string_lossy().into_owned(), text);
                }
            }
        }
        // A shader's text lives as long as the program, like those that are compiled in.
        let shader = Shader { stem, source: String::leak(source) };
        Ok(ShaderFiles { folder: folder.to_path_buf(), shader, shared })
    }

    /// Makes the plan's kernels of this shader those of the files, checking that they are WGSL.
    pub(super) fn put_into(&self, plan: &mut Plan, device: &Device) -> Result<()> {
        let mut known: HashMap<String, &'static str> = HashMap::new();
        for command in plan.segments.iter_mut().flat_map(|s| &mut s.commands) {
            let Command::Dispatch(kernel) = command else { continue };
            if kernel.shader.stem != self.shader.stem {
                continue;
            }
            let made = self.specialise(kernel)?;
            let source = match known.get(&made.text) {
                Some(source) => source,
                None => {
                    self.check(&made, device)?;
                    // All shared files are in the text already.
                    let source: &'static str = String::leak(made.text.replace("\n// use:", "\n// used:"));
                    known.insert(made.text, source);
                    source
                }
            };
            kernel.shader.source = source;
            (kernel.constants, kernel.swaps) = (vec![], vec![]);
        }
        Ok(())
    }

    fn specialise(&self, kernel: &Kernel) -> Result<Specialised> {
        let library = |name: &str| self.shared.get(name).map(String::as_str).or_else(|| shared(name));
        let made = specialise_from(self.shader, &kernel.constants, &kernel.swaps, &library);
        made.map_err(|why| Error::Input(format!("{}: {why}", self.path(self.shader.stem).display())))
    }

    /// Fails with the file, the line and the column of what is not WGSL.
    fn check(&self, made: &Specialised, device: &Device) -> Result<()> {
        let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let source = wgpu::ShaderSource::Wgsl(made.text.as_str().into());
        let module =
            device.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(self.shader.stem), source });
        let info = pollster::block_on(module.get_compilation_info());
        let Some(refused) = pollster::block_on(scope.pop()) else { return Ok(()) };
        let wrong = |m: &&wgpu::CompilationMessage| m.message_type == wgpu::CompilationMessageType::Error;
        let Some(message) = info.messages.iter().find(wrong) else {
            fail!(Input, "{} is not valid WGSL: {}", self.path(self.shader.stem).display(), one_line(&refused));
        };
        let (line, column) = message.location.map_or((1, 1), |at| (at.line_number as usize, at.line_position));
        let of = made.files.iter().rev().find(|(_, first)| *first <= line);
        let (stem, first) = of.expect("the first file starts at line 1");
        let why = message.message.lines().find(|l| !l.trim().is_empty()).unwrap_or("it does not parse");
        fail!(Input, "{}, line {}, column {column}: {}", self.path(stem).display(), line - first + 1, one_line(&why));
    }

    fn path(&self, stem: &str) -> PathBuf {
        self.folder.join(format!("{stem}.wgsl"))
    }
}

impl Gpu {
    /// Plans that are loaded from now on take a shader from these files; from the program again with `None`.
    pub fn reload(&mut self, files: Option<ShaderFiles>) {
        self.reloaded = files;
    }
}
