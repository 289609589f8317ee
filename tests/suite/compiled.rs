//! What AMD's compiler in Mesa makes of the kernels for GPUs: RADV's null device compiles for GPUs that are not there. No kernel that runs
//! without a measurement may keep registers in memory, and no variant but those with a reason.

use crate::cli::{error, has, stderr};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// An old and a new generation, GCN 5 and RDNA 2, by the names that versions of the driver give them. Mesa 22.3.6, which is Debian 12's,
/// gives kernels for RDNA 3 no more than 132 registers, half of what there are.
const OLD: &[&str] = &["vega20", "gfx906"];
const NEW: &[&str] = &["navi21", "gfx1030"];

/// Kernels that spill and stay: the generation's first name, the shader, the variant, and the reason.
const SPILLS: &[(&str, &str, &str, &str)] = &[];

fn wgpt(generation: &[&str], folder: &Path, arguments: &str) -> Output {
    let run = |name: &&str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
        command.env("RADV_FORCE_FAMILY", name).env("AMD_FORCE_FAMILY", name).env("MESA_SHADER_CACHE_DISABLE", "true");
        command.args(["profile", "--compiled", "--device", "RADV"]).args(arguments.split_whitespace());
        command.current_dir(folder).output().unwrap()
    };
    let known = |output: &Output| !stderr(output).contains("Unknown family");
    generation.iter().map(run).find(known).expect("a name that the driver knows")
}

/// The kernels of a profile, as they are saved.
#[track_caller]
fn kernels(generation: &[&str], arguments: &str) -> Vec<Value> {
    let place = tempfile::tempdir().unwrap();
    let output = wgpt(generation, place.path(), &format!("{arguments} --json kernels.json"));
    let hint = "RADV's null device is in mesa-vulkan-drivers of Debian and Ubuntu, before Mesa 26";
    assert!(output.status.success(), "{arguments}: {} ({hint})", stderr(&output));
    serde_json::from_slice(&std::fs::read(place.path().join("kernels.json")).unwrap()).unwrap()
}

/// Spills and bytes of scratch of a kernel.
fn in_memory(kernel: &Value) -> u64 {
    let number = |name: &str| kernel[name].as_u64().unwrap_or_else(|| panic!("no {name} of {kernel}"));
    number("spills") + number("scratch_bytes")
}

fn word<'a>(kernel: &'a Value, name: &str) -> &'a str {
    kernel[name].as_str().unwrap_or("")
}

/// Fails where a kernel spills that runs unmeasured, or one that has no reason to.
fn check(generation: &[&str], arguments: &str, least: usize) {
    let kernels = kernels(generation, arguments);
    assert!(kernels.len() >= least, "{arguments}: only {} kernels", kernels.len());
    let mut wrong = vec![];
    for kernel in kernels.iter().filter(|kernel| in_memory(kernel) > 0) {
        let named = |(on, shader, variant, _): &&(&str, &str, &str, &str)| {
            *on == generation[0] && *shader == word(kernel, "kernel") && *variant == word(kernel, "variant")
        };
        if kernel["runs"] == true || !SPILLS.iter().any(|entry| named(&entry)) {
            let what = ["kernel", "variant", "shape", "place"].map(|name| word(kernel, name));
            wrong.push(format!("{} spills {}, runs: {}", what.join(", "), kernel["spills"], kernel["runs"]));
        }
    }
    assert!(wrong.is_empty(), "{generation:?}, {arguments}:\n{}", wrong.join("\n"));
}

#[test]
fn kernels_of_plans_keep_their_registers() {
    for generation in [OLD, NEW] {
        check(generation, "--preset gpt2 --variants", 60);
        check(generation, "--preset gpt2 --decode --variants", 10);
    }
    check(NEW, "--preset gpt2 --precision mixed --variants", 60);
}

#[test]
fn kernels_of_all_ops_keep_their_registers() {
    check(NEW, "--ops=", 500);
}

#[test]
fn assembly_modules_and_shaders_from_disk_are_told_about_and_a_spill_shows() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &str| {
        let output = wgpt(NEW, place.path(), arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let (table, messages) = run("--ops gelu --spirv modules");
    has(&table, &["registers", "spills", "waves", "gelu_backward", "gelu tanh 5x67"]);
    has(&messages, &["NAVI21", "does not run"]);
    let modules: Vec<_> = std::fs::read_dir(place.path().join("modules")).unwrap().map(|e| e.unwrap().path()).collect();
    let rows =
        table.lines().skip_while(|line| !line.starts_with("kernel ")).skip(1).take_while(|line| !line.is_empty());
    assert_eq!(modules.len(), rows.count(), "{table}");
    // The magic number of SPIR-V.
    assert!(modules.iter().all(|path| std::fs::read(path).unwrap()[..4] == [3, 2, 0x23, 7]));
    let (assembly, _) = run("--ops gelu --assembly gelu_backward");
    has(&assembly, &["== ", "s_endpgm"]);
    assert!(!assembly.contains(": gelu "), "another kernel");

    // A thread that reads an array of its own at an index that no compiler knows keeps it in memory.
    let folder = place.path().join("shaders");
    std::fs::create_dir(&folder).unwrap();
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/gelu.wgsl")).unwrap();
    let kept = source.replace(
        "y[i] = X_TYPE(gelu(VALUES(x[i])));",
        "var own: array<VALUES, 999>;\n        for (var n = 0u; n < 999u; n++) {\n            own[(n * i) % 999u] = VALUES(x[n]);\n        }\n        \
         y[i] = X_TYPE(gelu(own[i % 999u]));",
    );
    assert_ne!(kept, source);
    std::fs::write(folder.join("gelu.wgsl"), kept).unwrap();
    let found = kernels(NEW, &format!("--ops gelu --shaders {}", folder.display()));
    assert!(found.iter().filter(|k| k["kernel"] == "gelu").all(|k| in_memory(k) > 0), "{found:?}");
    assert!(found.iter().filter(|k| k["kernel"] == "gelu_backward").all(|k| in_memory(k) == 0), "{found:?}");
}

#[test]
fn what_cannot_be_compiled_is_refused_in_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("empty")).unwrap();
    let refused: &[(&str, &[&str])] = &[
        ("--ops nothing", &["no case's name contains `nothing`"]),
        ("--ops gelu --assembly gelo", &["no kernel `gelo`", "gelu_backward"]),
        ("--ops gelu --shaders empty", &["empty holds no .wgsl"]),
        ("--preset nothing", &["nothing", "demo"]),
    ];
    for (arguments, words) in refused {
        has(&error(&wgpt(OLD, place.path(), arguments), 2), words);
    }
    let without = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
        command.arg("profile").args(arguments.split_whitespace()).output().unwrap()
    };
    has(&error(&without("--compiled --device cpu"), 2), &["CPU reference compiles no shaders"]);
    has(&error(&without("--compiled --device llvmpipe"), 1), &["llvmpipe", "VK_KHR_pipeline_executable_properties"]);
    has(&error(&without("--shaders ."), 2), &["--shaders", "--kernel", "--compiled"]);
}
