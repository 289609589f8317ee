//! Margins around the buffers of programs, so that tests see a kernel that writes or reads beside its tensors.
//!
//! Drivers check accesses against bindings, where they do: bindings reach to the end of the margin behind their tensor, and
//! `arrayLength`, which would count the margin, becomes the number that it is without one. Nothing else of a shader changes.

use super::executor::Gpu;
use crate::error::{Error, Result};
use crate::executor::{Executor, Program};
use crate::graph::Plan;
use crate::graph::memory::Class;
use crate::graph::plan::{Command, Kernel};
use crate::shaders::specialise;
use std::collections::HashMap;
use wgpu::naga;

/// The fill of margins. Each buffer's words are its own, so that a word copied from one margin to another shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Not a number, as f32 and as f16.
    Nan,
    /// About 1e36, as f16 about 6e4: larger than anything that a maximum compares it with.
    Large,
}

impl Fill {
    /// Word `at` of a margin of a program's buffer `buffer`.
    fn word(self, buffer: usize, at: usize) -> u32 {
        let (whole, low) = match self {
            Fill::Nan => (0xff80_7e00, at & 0x1ff),
            Fill::Large => (0x7b80_7b00, at & 0xff),
        };
        whole | ((buffer & 0x7f) << 16 | low) as u32
    }
}

/// Bytes before and after each buffer: more than a tile that hangs over an edge, and a multiple of every alignment.
pub const MARGIN_BYTES: u64 = 16 << 10;

impl Gpu {
    /// Surrounds the buffers of programs that are loaded from now on with margins; states have none.
    pub fn set_margins(&mut self, fill: Option<Fill>) {
        self.margins = fill;
    }

    /// A program's first write outside of its buffers, if there is one: the first word of a margin that changed.
    pub fn written_outside(&mut self, program: Program) -> Result<Option<String>> {
        let Some(fill) = self.margins else { return Ok(None) };
        let loaded = &self.programs[program.0];
        for (i, (info, buffer)) in loaded.plan.buffers.iter().zip(&loaded.buffers).enumerate() {
            if info.class == Class::State {
                continue;
            }
            let end = MARGIN_BYTES + info.size_bytes;
            for (side, start) in [("before", 0), ("behind", end)] {
                let words = self.device.read(buffer, start..start + MARGIN_BYTES)?;
                if let Some(at) = words.iter().enumerate().position(|(at, w)| w.to_bits() != fill.word(i, at)) {
                    let found = words[at].to_bits();
                    return Ok(Some(format!(
                        "`{}` was written word {at} of the margin {side} it: {found:#x}",
                        info.label
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Fills the margins of a plan's buffers, which its bindings are shifted for already, and binds those behind tensors too.
    pub(super) fn surround(&self, plan: &mut Plan, buffers: &[wgpu::Buffer]) -> Result<()> {
        let fill = self.margins.expect("margins are on");
        for (i, (info, buffer)) in plan.buffers.iter().zip(buffers).enumerate() {
            if info.class != Class::State {
                let words = (0..MARGIN_BYTES as usize / 4).map(|at| fill.word(i, at));
                let margin: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
                self.device.write(buffer, 0, &margin)?;
                self.device.write(buffer, MARGIN_BYTES + info.size_bytes, &margin)?;
            }
        }
        let mut known = HashMap::new();
        for command in plan.segments.iter_mut().flat_map(|s| &mut s.commands) {
            let Command::Dispatch(kernel) = command else { continue };
            fix_lengths(kernel, &mut known)?;
            for bound in &mut kernel.bindings {
                let Some(info) = bound.buffer.map(|i| &plan.buffers[i]).filter(|info| info.class != Class::State)
                else {
                    continue;
                };
                let end = 2 * MARGIN_BYTES + info.size_bytes;
                bound.range.end = end.min(bound.range.start + self.limits().binding_bytes);
            }
        }
        Ok(())
    }
}

/// Puts numbers in the place of `arrayLength(&name)`: the elements of each binding as it is.
fn fix_lengths(kernel: &mut Kernel, known: &mut HashMap<String, &'static str>) -> Result<()> {
    let mut text = specialise(kernel.shader, &kernel.constants, &kernel.swaps);
    if !text.contains("arrayLength(") {
        return Ok(());
    }
    let wrong = |why: String| Error::Device(format!("shader {}: {why}", kernel.shader.stem));
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| wrong(e.emit_to_string(&text)))?;
    for (_, variable) in module.global_variables.iter() {
        let (Some(name), Some(binding)) = (&variable.name, &variable.binding) else { continue };
        if let naga::TypeInner::Array { stride, .. } = module.types[variable.ty].inner {
            let range = &kernel.bindings[binding.binding as usize].range;
            let len = (range.end - range.start) / u64::from(stride);
            text = text.replace(&format!("arrayLength(&{name})"), &format!("{len}u"));
        }
    }
    if text.contains("arrayLength(") {
        return Err(wrong("arrayLength of something that is no binding".into()));
    }
    // All shared files are in the text already.
    let source = known.entry(text).or_insert_with_key(|text| String::leak(text.replace("\n// use:", "\n// used:")));
    kernel.shader.source = source;
    (kernel.constants, kernel.swaps) = (vec![], vec![]);
    Ok(())
}
