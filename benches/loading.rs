//! Time and host memory of loading a model of GPT-2's size from its file to a device.
//!
//!     cargo bench --bench loading
//!
//! Writes 124M parameters in f32 and in f16 to a temporary folder. Each is read plainly (as `cat` would), opened (which
//! checks its SHA-256), read and converted piece by piece into a buffer that is thrown away, and uploaded to the device
//! twice. Memory is by how much the process's peak grows (Linux only). On a software adapter the first upload's growth
//! includes the device's own memory, which is touched then; the second's is the loader's alone. Files are in the system's
//! cache unless the caches can be dropped, which root may do.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;
use wgpt::executor::Executor;
use wgpt::formats::folder::{NamedTensor, WeightType, Weights, write_weights};
use wgpt::formats::upload::upload;
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Shape};
use wgpt::models::config::Config;
use wgpt::models::network::Network;

fn main() {
    let config = Config::preset("gpt2").expect("a preset");
    let network = Network::new(config.clone());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("model.safetensors");
    for weights in [WeightType::F32, WeightType::F16] {
        write(&config, &file, weights);
        let size = fs::metadata(&file).expect("just written").len();
        println!("{weights:?}: {} MiB, {}", size >> 20, if drop_caches() { "not cached" } else { "cached" });
        let report = |what: &str, seconds: f64, bytes: u64, peak: Option<u64>| {
            let peak = peak.map_or(String::new(), |peak| {
                format!(", peak {} MiB, {:.2} of the file", peak >> 20, peak as f64 / size as f64)
            });
            println!("  {what:30} {seconds:6.2} s  {:6.0} MB/s{peak}", bytes as f64 / seconds / 1e6);
        };
        let (seconds, _) = timed(|| read(&file));
        report("read plainly", seconds, size, None);

        drop_caches();
        let before = reset_peak();
        let mut opened = None;
        let (seconds, peak) = timed(|| opened = Some(Weights::open(folder.path(), &config).expect("a model")));
        report("opened and verified", seconds, size, growth(before, peak));

        drop_caches();
        let before = reset_peak();
        let loaded = opened.expect("opened");
        let (seconds, peak) = timed(|| discard(&loaded));
        report("read in pieces", seconds, size, growth(before, peak));

        let mut gpu = Gpu::open("auto").expect("an adapter");
        let mut g = Graph::new();
        let ids = g.input("ids", Shape::u32(&[1, 16]));
        let logits = network.inference().logits(&mut g, ids);
        g.output("logits", logits);
        let plan = Plan::new(&g, gpu.limits()).expect("a plan");
        gpu.load(&g, plan).expect("memory");
        for round in ["uploaded", "uploaded again"] {
            drop_caches();
            let before = reset_peak();
            let (seconds, peak) = timed(|| {
                upload(&mut gpu, &network, &loaded).expect("an upload");
                gpu.wait().expect("a device");
            });
            report(round, seconds, size, growth(before, peak));
        }
        println!("  (the device holds {} MiB: {})", gpu.allocated_bytes() >> 20, gpu.description());
    }
}

/// All parameters, from one buffer of values, so that writing takes little memory.
fn write(config: &Config, file: &Path, weights: WeightType) {
    let parameters = config.parameters();
    let largest = parameters.iter().map(|(_, dims)| dims.iter().product::<usize>()).max().unwrap_or(0);
    let values: Vec<f32> = (0..largest).map(|i| (i % 8191) as f32 / 8192.0).collect();
    let tensors: Vec<NamedTensor> = parameters
        .into_iter()
        .map(|(name, dims)| {
            let values = &values[..dims.iter().product()];
            (name, dims, values)
        })
        .collect();
    write_weights(file, &config.stored(&tensors), &[], weights).expect("room on the disk");
}

fn read(file: &Path) {
    let mut file = File::open(file).expect("just written");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("a readable file") > 0 {}
}

/// Reads every parameter as an upload does, into a buffer that is overwritten again and again.
fn discard(weights: &Weights) {
    let mut buffer = vec![0f32; 1 << 20];
    for name in weights.names() {
        let take = |_, piece: &[f32]| {
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(())
        };
        weights.read_pieces(name, take).expect("a parameter");
    }
    std::hint::black_box(&buffer);
}

/// Seconds that `run` takes, and the process's peak memory after it.
fn timed(run: impl FnOnce()) -> (f64, Option<u64>) {
    let start = Instant::now();
    run();
    (start.elapsed().as_secs_f64(), status("VmHWM:"))
}

fn growth(before: Option<u64>, peak: Option<u64>) -> Option<u64> {
    Some(peak?.saturating_sub(before?))
}

/// Resets the peak to the resident memory, which it returns.
fn reset_peak() -> Option<u64> {
    fs::write("/proc/self/clear_refs", "5").ok()?;
    status("VmRSS:")
}

/// Bytes from /proc/self/status.
fn status(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

fn drop_caches() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}
