//! The line of a record on the console.

use crate::train::record::Record;

/// The line on the console:
/// `step 120/400  loss 1.734  val 1.802  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB`, and for experts the least and
/// the largest load of one, relative to an even one: `load 0.71 to 1.36`; in mixed precision the loss scale: `scale 65536`
pub fn line(record: &Record, steps: u64) -> String {
    let digits = steps.to_string().len();
    let val = record.val_loss.map_or(String::new(), |loss| format!("  val {loss:.3}"));
    let skipped = record.skipped.as_ref().map_or(String::new(), |reason| format!("  skipped: {reason}"));
    let load = record.expert_load.as_ref().map_or(String::new(), |layers| {
        let all = || layers.iter().flatten().copied();
        format!("  load {:.2} to {:.2}", all().fold(f32::INFINITY, f32::min), all().fold(0.0, f32::max))
    });
    let scalars: String = record.scalars.iter().map(|(name, value)| format!("  {name} {value:.3}")).collect();
    let scale = record.loss_scale.map_or(String::new(), |scale| format!("  scale {scale}"));
    let ms_decimals = if record.step_ms < 9.95 { 1 } else { 0 };
    format!(
        "step {:>digits$}/{steps}  loss {:.3}{val}  \
         norm {:.2}  lr {:.1e}  {:.ms_decimals$} ms  {:.0} tok/s  {}{scalars}{load}{scale}{skipped}",
        record.step,
        record.loss,
        record.grad_norm,
        record.lr,
        record.step_ms,
        record.tokens_per_second,
        memory(record.memory_bytes),
    )
}

/// Whole MiB below 10 GiB, tenths of a GiB above.
fn memory(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 10240.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}
