//! The driver's compiled shaders, kept on disk, so that a second start compiles nothing. Vulkan only; elsewhere the driver
//! keeps a cache of its own.

use super::adapter::Adapter;
use super::device::Device;
use crate::files::{sha256_hex, write_bytes};
use std::path::{Path, PathBuf};

/// A driver's cache and its file: 64 digits that are the data's SHA-256, then the data.
pub(super) struct PipelineCache {
    path: PathBuf,
    pub inner: wgpu::PipelineCache,
    /// Digest of the file's content.
    saved: String,
}

/// Length of a digest.
const DIGEST: usize = 64;

impl PipelineCache {
    /// Opens the cache of an adapter in `folder`; `None` where the backend has none.
    pub fn open(device: &Device, adapter: &Adapter, folder: &Path) -> Option<PipelineCache> {
        if !device.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(&adapter.inner.get_info())?;
        let path = folder.join("pipelines").join(key);
        let (saved, data) = read(&path).unzip();
        let data = data.as_deref();
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("wgpt"), data, fallback: true };
        // SAFETY: the data has the digest that was written with it, so `get_data` returned it to an earlier run.
        // wgpu checks that it belongs to this driver.
        let inner = unsafe { device.device.create_pipeline_cache(&descriptor) };
        Some(PipelineCache { path, inner, saved: saved.unwrap_or_default() })
    }

    /// Writes the cache to the file, if it has changed. A cache that cannot be written costs time at the next start, and nothing
    /// else.
    pub fn save(&mut self) {
        let Some(data) = self.inner.get_data() else { return };
        let digest = sha256_hex(&data);
        if digest == self.saved {
            return;
        }
        let folder = self.path.parent().expect("a file in a folder");
        let bytes = [digest.as_bytes(), &data].concat();
        if std::fs::create_dir_all(folder).is_ok() && write_bytes(&self.path, &bytes).is_ok() {
            self.saved = digest;
        }
    }
}

/// The digest and the data of a file, if they belong together.
fn read(path: &Path) -> Option<(String, Vec<u8>)> {
    let mut bytes = std::fs::read(path).ok()?;
    if bytes.len() < DIGEST {
        return None;
    }
    let data = bytes.split_off(DIGEST);
    let digest = String::from_utf8(bytes).ok()?;
    (sha256_hex(&data) == digest).then_some((digest, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::choose;

    #[test]
    fn a_saved_cache_is_read_again_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let adapter = choose("auto").unwrap();
        let device = Device::open(&adapter).unwrap();
        let Some(mut cache) = PipelineCache::open(&device, &adapter, folder.path()) else {
            assert_ne!(adapter.backend, "vulkan", "only other backends keep a cache of their own");
            return;
        };
        assert_eq!(cache.saved, "");
        cache.save();
        let path = cache.path.clone();
        let (digest, data) = read(&path).unwrap();
        assert_eq!((digest.as_str(), sha256_hex(&data)), (cache.saved.as_str(), digest.clone()));
        assert_eq!(PipelineCache::open(&device, &adapter, folder.path()).unwrap().saved, digest);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(PipelineCache::open(&device, &adapter, folder.path()).unwrap().saved, "");
        std::fs::write(&path, b"short").unwrap();
        assert!(read(&path).is_none());
        device.check().unwrap();
    }
}
