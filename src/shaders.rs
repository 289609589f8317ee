//! From a WGSL file with working defaults to the text a device compiles: constants set, shared files appended.

use crate::graph::{Constant, Shader};
use crate::shader;

/// The files a shader may name in its `// use:` line.
const SHARED: &[Shader] = &[
    shader!("shared/step"),
    shader!("shared/index"),
    shader!("shared/reduce"),
    shader!("shared/random"),
    shader!("shared/logit"),
    shader!("shared/seen"),
    shader!("shared/gelu"),
    shader!("shared/edges"),
    shader!("shared/quads"),
    shader!("shared/quads_unaligned"),
    shader!("shared/store"),
    shader!("shared/store_bias"),
    shader!("shared/store_bias_gelu"),
];

/// Replaces the right-hand side of `const NAME: T = ...;` for each constant, and appends the shared files named in the
/// `// use: a b` line, each as itself or as what `swaps` puts in its place. An unknown constant or file panics: both are
/// ours. WGSL allows any order of declarations, so line numbers in errors stay those of the file.
pub fn specialise(shader: Shader, constants: &[(&str, Constant)], swaps: &[(&str, &str)]) -> String {
    let mut text = shader.source.to_string();
    for (named, taken) in swaps {
        assert!(used(shader.source).contains(named), "{shader:?} does not use `{named}`");
        assert!(shared(taken).is_some(), "there is no shared shader `{taken}`");
    }
    let mut pending: Vec<&str> = uses(shader.source);
    let mut seen: Vec<&str> = vec![];
    while let Some(name) = pending.pop() {
        let name = swaps.iter().find(|(named, _)| *named == name).map_or(name, |(_, taken)| taken);
        if !seen.contains(&name) {
            seen.push(name);
            let file = shared(name).unwrap_or_else(|| panic!("{shader:?} uses `{name}`, which is not there"));
            pending.extend(uses(file.source));
            text.push('\n');
            text.push_str(file.source);
        }
    }
    for (name, value) in constants {
        let start =
            text.find(&format!("const {name}:")).unwrap_or_else(|| panic!("{shader:?} has no constant `{name}`"));
        let equals = start + text[start..].find('=').expect("a constant has a value");
        let end = equals + text[equals..].find(';').expect("a declaration ends");
        text.replace_range(equals..end, &format!("= {}", literal(*value)));
    }
    text
}

fn literal(value: Constant) -> String {
    match value {
        Constant::U32(v) => format!("{v}u"),
        Constant::Bool(v) => v.to_string(),
        // `{:?}` prints the shortest text that reads back as the same f32, always with a point or an exponent.
        Constant::F32(v) => format!("{v:?}f"),
    }
}

fn shared(name: &str) -> Option<&'static Shader> {
    SHARED.iter().find(|s| s.stem.strip_prefix("shared/") == Some(name))
}

/// All shared files that a text uses, also through another.
fn used(text: &str) -> Vec<&str> {
    let mut names = uses(text);
    let mut next = 0;
    while let Some(file) = names.get(next).and_then(|name| shared(name)) {
        names.extend(uses(file.source));
        next += 1;
    }
    names
}

/// Names in the `// use:` line.
fn uses(text: &str) -> Vec<&str> {
    text.lines().find_map(|l| l.strip_prefix("// use:")).map_or(vec![], |l| l.split_whitespace().collect())
}
