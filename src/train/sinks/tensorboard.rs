//! Event files that TensorBoard shows: a scalar for every number of the log, and the texts of samples.
//!
//! A file is a sequence of records: the payload's length as u64, a checksum of these eight bytes, the payload, its checksum (TFRecord;
//! checksums are CRC32C, rotated and shifted). A payload is a `tensorflow.Event` in Protocol Buffers.
//!
//! A run that is resumed begins a further file, as TensorBoard expects: its second event says after which step the run goes on, and
//! what earlier files hold beyond that step is not shown.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;

use super::Sink;
use crate::error::{Error, Result};
use crate::train::checkpoint::{EVENTS, RunFolder};
use crate::train::record::Record;

/// `tensorflow.Event`, with the fields that are written here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// A number or a tensor of text.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// A tensor without dimensions.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: the run begins anew at the event's step.
const START: i32 = 1;
/// `DT_STRING`.
const STRING: i32 = 7;

/// The event file of a run.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

/// Whether a folder holds event files.
pub fn has_events(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(EVENTS))
}

impl TensorBoard {
    /// Begins a file in the folder of a run that goes on after `step`.
    pub fn begin(folder: &Path, step: u64) -> Result<TensorBoard> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let host = sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into());
        // Seconds come first, so that files sort by their age; nanoseconds keep two of one second apart.
        let name = format!("{EVENTS}{:010}.{host}.{}.{}", now.as_secs(), std::process::id(), now.subsec_nanos());
        let path = folder.join(name);
        let opened = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = opened.map_err(Error::io("write", &path))?;
        let mut board = TensorBoard { path, file };
        board.write(Event { file_version: Some("brain.Event:2".into()), ..Event::default() })?;
        if step > 0 {
            let session_log = Some(SessionLog { status: START });
            board.write(Event { step: step as i64 + 1, session_log, ..Event::default() })?;
        }
        Ok(board)
    }

    fn write(&mut self, event: Event) -> Result<()> {
        let wall_time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
        let record = framed(&Event { wall_time, ..event }.encode_to_vec());
        self.file.write_all(&record).map_err(Error::io("append to", &self.path))
    }

    fn values(&mut self, step: u64, value: Vec<Value>) -> Result<()> {
        self.write(Event { step: step as i64, summary: Some(Summary { value }), ..Event::default() })
    }
}

impl Sink for TensorBoard {
    fn record(&mut self, record: &Record) -> Result<()> {
        let scalar = |(name, value): (&str, f64)| Value {
            tag: name.to_string(),
            simple_value: Some(value as f32),
            ..Value::default()
        };
        self.values(record.step, record.numbers().into_iter().map(scalar).collect())
    }

    fn sample(&mut self, step: u64, text: &str) -> Result<()> {
        let plugin_data = Some(PluginData { plugin_name: "text".into() });
        let (dtype, tensor_shape) = (STRING, Some(TensorShape {}));
        let value = Value {
            tag: "sample".into(),
            simple_value: None,
            tensor: Some(TensorProto { dtype, tensor_shape, string_val: vec![text.as_bytes().to_vec()] }),
            metadata: Some(SummaryMetadata { plugin_data }),
        };
        self.values(step, vec![value])
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("sync", &self.path))
    }

    fn moved(&mut self, folder: &RunFolder) {
        if let Some(name) = self.path.file_name() {
            self.path = folder.path().join(name);
        }
    }

    fn resume(&mut self, step: u64) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("")).to_path_buf();
        *self = TensorBoard::begin(&folder, step)?;
        Ok(())
    }
}

/// A payload as a record of a file.
fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), payload, &checksum(payload)].concat()
}

/// TFRecord's checksum: a CRC32C, rotated by 15 bits and shifted by a constant, because a CRC of data with CRCs in it is weak.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_framed_as_tensorflow_frames_it() {
        // The first record of every file of TensorFlow's writer, but for its wall time: field 1 (fixed64), field 3 (text).
        let event = Event { wall_time: 1.0, file_version: Some("brain.Event:2".into()), ..Event::default() };
        let record = framed(&event.encode_to_vec());
        let payload = [b"\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0d", &b"brain.Event:2"[..]].concat();
        assert_eq!(record[8 + 4..record.len() - 4], payload);
        // The masked checksum of the length 24, which starts every file of TensorFlow's.
        assert_eq!(record[..12], *b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22");
    }
}
