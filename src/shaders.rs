//! From a WGSL file with working defaults to the text a device compiles: constants set, shared files appended.

use crate::graph::{Constant, Dtype, Shader};
use crate::shader;

/// The files a shader may name in its `// use:` line.
const SHARED: &[Shader] = &[
    shader!("shared/step"),
    shader!("shared/index"),
    shader!("shared/reduce"),
    shader!("shared/random"),
    shader!("shared/logit"),
    shader!("shared/logit_quads"),
    shader!("shared/logit_quads_strided"),
    shader!("shared/seen"),
    shader!("shared/gelu"),
    shader!("shared/silu"),
    shader!("shared/gate_silu"),
    shader!("shared/gate_gelu"),
    shader!("shared/window"),
    shader!("shared/attention"),
    shader!("shared/attention_packed"),
    shader!("shared/attention_apart"),
    shader!("shared/causal"),
    shader!("shared/mask_causal"),
    shader!("shared/mask_full"),
    shader!("shared/mask_lengths"),
    shader!("shared/mask_documents"),
    shader!("shared/bias_none"),
    shader!("shared/bias_distance"),
    shader!("shared/bias_queries"),
    shader!("shared/cos_sin"),
    shader!("shared/buckets"),
    shader!("shared/blocks"),
    shader!("shared/position_learned"),
    shader!("shared/position_by_row"),
    shader!("shared/row_positions"),
    shader!("shared/row_positions_given"),
    shader!("shared/first_position"),
    shader!("shared/first_position_by_row"),
    shader!("shared/position_none"),
    shader!("shared/edges"),
    shader!("shared/swaths"),
    shader!("shared/a_quads"),
    shader!("shared/quads"),
    shader!("shared/quads_unaligned"),
    shader!("shared/quads_f16"),
    shader!("shared/quads_q8_0"),
    shader!("shared/quads_q4_0"),
    shader!("shared/block_scales"),
    shader!("shared/operands"),
    shader!("shared/operands_unaligned"),
    shader!("shared/cooperative_16"),
    shader!("shared/cooperative_8"),
    shader!("shared/cooperative_heads"),
    shader!("shared/cooperative_heads_16"),
    shader!("shared/cooperative_heads_8"),
    shader!("shared/sums_staged"),
    shader!("shared/sums_direct"),
    shader!("shared/values"),
    shader!("shared/keep_1"),
    shader!("shared/keep_4"),
    shader!("shared/reduce_subgroups"),
    shader!("shared/width_1"),
    shader!("shared/width_4"),
    shader!("shared/store"),
    shader!("shared/store_bias"),
    shader!("shared/store_bias_gelu"),
    shader!("shared/store_residual"),
    shader!("shared/store_bias_residual"),
    shader!("shared/expert_rows"),
    shader!("shared/rows_sorted"),
    shader!("shared/rows_gathered"),
    shader!("shared/row_gradient"),
    shader!("shared/row_gradient_mean"),
    shader!("shared/row_gradient_weighted"),
    shader!("shared/row_weight_counted"),
    shader!("shared/row_weight_given"),
    shader!("shared/combine_weighted"),
    shader!("shared/combine_plain"),
    shader!("shared/pair_loss"),
    shader!("shared/policy_ratio"),
    shader!("shared/value_clip"),
];

/// Replaces the right-hand side of `const NAME: T = ...;`, or of `alias NAME = ...;`, for each constant, and appends the
/// shared files named in the `// use: a b` line, each as itself or as its replacement in `swaps`. An unknown constant or
/// file panics: both are ours. WGSL allows any order of declarations, so line numbers in errors stay those of the file;
/// `enable f16;`, where an operand is f16, goes in front of the first line.
pub fn specialise(shader: Shader, constants: &[(&str, Constant)], swaps: &[(&str, &str)]) -> String {
    specialise_from(shader, constants, swaps, &shared).unwrap_or_else(|why| panic!("{why}")).text
}

/// A specialised shader, and which files it is made of.
pub struct Specialised {
    pub text: String,
    /// Each file's stem and the first line that is its, counted from 1.
    pub files: Vec<(String, usize)>,
}

/// As [`specialise`], with the text of shared files from `library`; a mistake in a file that is not ours is an error.
pub fn specialise_from<'a>(
    shader: Shader,
    constants: &[(&str, Constant)],
    swaps: &[(&str, &str)],
    library: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Specialised, String> {
    let mut text = shader.source.to_string();
    let mut files = vec![(shader.stem.to_string(), 1)];
    for (named, taken) in swaps {
        if !used(shader.source, library).contains(named) {
            return Err(format!("{shader:?} does not use `{named}`"));
        }
        if library(taken).is_none() {
            return Err(format!("there is no shared shader `{taken}`"));
        }
    }
    let mut pending: Vec<&str> = uses(shader.source);
    let mut seen: Vec<&str> = vec![];
    while let Some(name) = pending.pop() {
        let name = swaps.iter().find(|(named, _)| *named == name).map_or(name, |(_, taken)| taken);
        if !seen.contains(&name) {
            seen.push(name);
            let source = library(name).ok_or_else(|| format!("{shader:?} uses `{name}`, which is not there"))?;
            pending.extend(uses(source));
            text.push('\n');
            files.push((format!("shared/{name}"), text.matches('\n').count() + 1));
            text.push_str(source);
        }
    }
    for (name, value) in constants {
        let declared = match value {
            Constant::Element(_) | Constant::Quad(_) => text.find(&format!("alias {name} =")),
            _ => text.find(&format!("const {name}:")),
        };
        let range = declared.and_then(|start| {
            let equals = start + text[start..].find('=')?;
            Some(equals..equals + text[equals..].find(';')?)
        });
        let range = range.ok_or_else(|| format!("{shader:?} has no constant `{name}`"))?;
        text.replace_range(range, &format!("= {}", literal(value)));
    }
    if constants.iter().any(|(_, value)| matches!(value, Constant::Element(Dtype::F16) | Constant::Quad(Dtype::F16))) {
        text.insert_str(0, "enable f16; ");
    }
    Ok(Specialised { text, files })
}

fn literal(value: &Constant) -> String {
    match value {
        Constant::U32(v) => format!("{v}u"),
        Constant::Bool(v) => v.to_string(),
        // `{:?}` prints the shortest text that reads back as the same f32, always with a point or an exponent.
        Constant::F32(v) => format!("{v:?}f"),
        Constant::Table(v) => format!("array({})", v.iter().map(|v| format!("{v:?}f")).collect::<Vec<_>>().join(", ")),
        Constant::Element(dtype) => scalar(*dtype).into(),
        Constant::Quad(dtype) => format!("vec4<{}>", scalar(*dtype)),
        Constant::Beyond(v) => format!("{v}u"), // not planned; WGSL refuses it as well
    }
}

fn scalar(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::U32 => "u32",
    }
}

/// The text of a built-in shared file.
pub fn shared(name: &str) -> Option<&'static str> {
    SHARED.iter().find(|s| s.stem.strip_prefix("shared/") == Some(name)).map(|s| s.source)
}

/// All shared files that a text uses, also through another.
fn used<'a>(text: &'a str, library: &dyn Fn(&str) -> Option<&'a str>) -> Vec<&'a str> {
    let mut names = uses(text);
    let mut next = 0;
    while let Some(source) = names.get(next).and_then(|name| library(name)) {
        names.extend(uses(source));
        next += 1;
    }
    names
}

/// Names in the `// use:` line.
fn uses(text: &str) -> Vec<&str> {
    text.lines().find_map(|l| l.strip_prefix("// use:")).map_or(vec![], |l| l.split_whitespace().collect())
}
