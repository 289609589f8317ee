//! The layers of `src`: imports point down only, and no two folders import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lowest first; folders in one row may not import each other either. A folder's own file (`graph.rs`) belongs to it.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["files", "ranks"],
    &["graph"],
    &["shaders"],
    &["executor", "ops"],
    &["reference"],
    &["gpu"],
    &["checks"],
    &["models"],
    &["data"],
    &["formats"],
    &["generate", "evaluate"],
    &["serve", "train"],
    &["objectives"],
    &["web"],
    &["cli"],
];

/// The Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

/// Folders that a source imports from: the name behind `crate::`, or `wgpt::` in the command line.
fn imports(source: &str) -> BTreeSet<String> {
    let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for root in ["crate::", "wgpt::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                // use crate::{a::b, c}: the names at the first level.
                Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn imports_point_down_the_layers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let level: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(level, row)| row.iter().map(move |name| (*name, level))).collect();
    let (mut upward, mut checked) = (vec![], 0);
    for file in files(&source) {
        let place = file.strip_prefix(&source).unwrap();
        let first = place.components().next().unwrap().as_os_str().to_string_lossy();
        let folder = first.strip_suffix(".rs").unwrap_or(&first).to_string();
        if ["lib", "main"].contains(&folder.as_str()) {
            continue;
        }
        let own = *level.get(folder.as_str()).unwrap_or_else(|| panic!("{folder} has no layer: give it one in LAYERS"));
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            // Macros stand at the root: `fail!` and `shader!`.
            let Some(&other) = level.get(import.as_str()) else { continue };
            checked += 1;
            if import != folder && other >= own {
                upward.push(format!("{} imports {import}", place.display()));
            }
        }
    }
    assert!(checked > 300, "{checked} imports were read");
    assert!(upward.is_empty(), "imports point up, or to a neighbour:\n{}", upward.join("\n"));
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let found = imports("use crate::{error::Error, fail};\nuse crate::graph::Graph;\nlet x = wgpt::train::run();");
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["error", "fail", "graph", "train"]);
}
