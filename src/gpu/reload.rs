//! Shaders from disk in place of the built-in ones, so that a kernel author's edits run without a build.

use super::device::one_line;
use super::executor::Gpu;
use crate::error::{Error, Result};
use crate::fail;
use crate::graph::plan::{Command, Kernel};
use crate::graph::{Plan, Shader};
use crate::shaders::{Specialised, shared, specialise_from};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use wgpu::naga;
use wgpu::naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// Shader files and the shared files beside them, as they are on disk.
#[derive(Clone, Debug)]
pub struct ShaderFiles {
    folder: PathBuf,
    shaders: Vec<Shader>,
    /// Text of the shared files that the folder holds, by name; the others are the built-in ones.
    shared: HashMap<String, String>,
    /// Whether shared files count for shaders that have no file here, too.
    all: bool,
}

impl ShaderFiles {
    /// Reads `folder/stem.wgsl` and `folder/shared/*.wgsl`, for the one shader.
    pub fn read(folder: &Path, stem: &'static str) -> Result<ShaderFiles> {
        let path = folder.join(format!("{stem}.wgsl"));
        let source = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        // A shader's text lives as long as the program, like those that are compiled in.
        let shader = Shader { stem, source: String::leak(source) };
        let shared = read_folder(&folder.join("shared"))?;
        Ok(ShaderFiles { folder: folder.to_path_buf(), shaders: vec![shader], shared, all: false })
    }

    /// Reads `folder/*.wgsl` and `folder/shared/*.wgsl`, for every shader.
    pub fn read_all(folder: &Path) -> Result<ShaderFiles> {
        let leaked = |(stem, source)| Shader { stem: String::leak(stem), source: String::leak(source) };
        let shaders: Vec<Shader> = read_folder(folder)?.into_iter().map(leaked).collect();
        let shared = read_folder(&folder.join("shared"))?;
        if shaders.is_empty() && shared.is_empty() {
            fail!(Usage, "{} holds no .wgsl file, and none in shared", folder.display());
        }
        Ok(ShaderFiles { folder: folder.to_path_buf(), shaders, shared, all: true })
    }

    /// Makes the plan's kernels of these shaders those of the files, checking that they are WGSL.
    pub fn put_into(&self, plan: &mut Plan) -> Result<()> {
        let mut known: HashMap<String, &'static str> = HashMap::new();
        for command in plan.segments.iter_mut().flat_map(|s| &mut s.commands) {
            let Command::Dispatch(kernel) = command else { continue };
            let own = self.shaders.iter().find(|shader| shader.stem == kernel.shader.stem);
            let Some(shader) = own.copied().or(self.all.then_some(kernel.shader)) else { continue };
            let made = self.specialise(shader, kernel)?;
            let source = match known.get(&made.text) {
                Some(source) => source,
                None => {
                    self.check(&made)?;
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

    fn specialise(&self, shader: Shader, kernel: &Kernel) -> Result<Specialised> {
        let library = |name: &str| self.shared.get(name).map(String::as_str).or_else(|| shared(name));
        let made = specialise_from(shader, &kernel.constants, &kernel.swaps, &library);
        made.map_err(|why| Error::Input(format!("{}: {why}", self.path(shader.stem).display())))
    }

    /// Fails with the file, the line and the column of a mistake in the WGSL.
    fn check(&self, made: &Specialised) -> Result<()> {
        let Err((at, why)) = validate(&made.text) else { return Ok(()) };
        let (line, column) = at.map_or((1, 1), |at| (at.line_number as usize, at.line_position));
        let of = made.files.iter().rev().find(|(_, first)| *first <= line);
        let (stem, first) = of.expect("the first file starts at line 1");
        fail!(Input, "{}, line {}, column {column}: {}", self.path(stem).display(), line - first + 1, one_line(&why));
    }

    fn path(&self, stem: &str) -> PathBuf {
        self.folder.join(format!("{stem}.wgsl"))
    }
}

/// Stems and texts of the WGSL files in a folder; none where there is no such folder.
fn read_folder(folder: &Path) -> Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let path = entry.map_err(Error::io("read", folder))?.path();
            if let (Some(name), Some("wgsl")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
                let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
                found.insert(name.to_string_lossy().into_owned(), text);
            }
        }
    }
    Ok(found)
}

/// A mistake in WGSL, and its place where that is known.
type Mistake = (Option<naga::SourceLocation>, String);

/// The module of a WGSL text, or the mistake in it. Features that only this device lacks show when it compiles.
pub(super) fn validate(text: &str) -> std::result::Result<(naga::Module, ModuleInfo), Mistake> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| (e.location(text), e.message().to_string()))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| {
        // The smallest of the places that it names: the others are the function and the module around it.
        let spans = e.spans().map(|(span, _)| span.location(text));
        let at = spans.filter(|at| at.length > 0).min_by_key(|at| at.length);
        let causes = std::iter::successors(Some(e.as_inner() as &dyn std::error::Error), |cause| cause.source());
        let causes: Vec<String> = causes.map(ToString::to_string).collect();
        (at, causes.join(": "))
    })?;
    Ok((module, info))
}

impl Gpu {
    /// Plans that are loaded from now on take a shader from these files; from the program again with `None`.
    pub fn reload(&mut self, files: Option<ShaderFiles>) {
        self.reloaded = files;
    }
}
