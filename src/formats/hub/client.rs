//! The `hf-hub` crate's client for one model, with checks around it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::checksum::Checksum;
use super::{Download, Hub};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// More than any listing of files has.
const MOST_LISTING_BYTES: u64 = 64 << 20;
const MAIN: &str = "main";

pub struct Client<'a> {
    hub: &'a Hub,
    name: &'a str,
    /// Absolute, which the crate needs for its links.
    cache: PathBuf,
}

/// The files of a model's newest version.
#[derive(Deserialize)]
pub struct Listing {
    /// The commit.
    pub sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

impl Listing {
    pub fn has(&self, file: &str) -> bool {
        self.siblings.iter().any(|sibling| sibling.rfilename == file)
    }

    fn checksum(&self, file: &str) -> Option<Checksum> {
        let sibling = self.siblings.iter().find(|sibling| sibling.rfilename == file)?;
        let checksum = match (&sibling.lfs, &sibling.blob_id) {
            (Some(lfs), _) => Checksum::Sha256(lfs.sha256.clone()),
            (None, Some(id)) => Checksum::Git(id.clone()),
            (None, None) => return None,
        };
        is_hexadecimal(checksum.digits()).then_some(checksum)
    }
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub, name: &'a str) -> Result<Self> {
        let cache = std::path::absolute(&hub.cache).map_err(Error::io("find", &hub.cache))?;
        Ok(Self { hub, name, cache })
    }

    /// The folder of the version that `refs/main` names, if there is one.
    pub fn cached(&self) -> Option<PathBuf> {
        let sha = fs::read_to_string(self.root().join("refs").join(MAIN)).ok()?;
        Some(self.snapshot(sha.trim())).filter(|folder| is_hexadecimal(sha.trim()) && folder.is_dir())
    }

    /// The folder of a version.
    pub fn snapshot(&self, sha: &str) -> PathBuf {
        self.root().join("snapshots").join(sha)
    }

    /// Asks the hub for the newest version's files.
    pub fn listing(&self) -> Result<Listing> {
        let response = self.remote(MAIN)?.info_request().query("blobs", "true").call();
        let response = response.map_err(|error| self.explain("its list of files", Box::new(error).into()))?;
        let mut text = Vec::new();
        let read = response.into_reader().take(MOST_LISTING_BYTES).read_to_end(&mut text);
        read.map_err(|error| self.explain("its list of files", error.into()))?;
        match serde_json::from_slice::<Listing>(&text) {
            Ok(listing) if is_hexadecimal(&listing.sha) => Ok(listing),
            _ => fail!(Input, "{} does not answer as the Hugging Face hub does: check HF_ENDPOINT", self.hub.endpoint),
        }
    }

    /// Makes sure that a file of a version is in the cache with the content that the hub names.
    pub fn fetch(&self, listing: &Listing, file: &str, download: &mut dyn Download) -> Result<()> {
        let Some(checksum) = listing.checksum(file) else {
            fail!(Input, "{}: the hub names no checksum for {file}, so a download could not be checked", self.name);
        };
        let path = self.snapshot(&listing.sha).join(file);
        if path.exists() {
            if checksum.matches(&path).map_err(Error::io("read", &path))? {
                return Ok(());
            }
            self.remove(&path, &checksum);
        }
        let got = self.download(&listing.sha, file, &checksum, download)?;
        if got != path || !checksum.matches(&path).map_err(Error::io("read", &path))? {
            self.remove(&got, &checksum);
            fail!(
                Input,
                "{file} of {} came damaged (its checksum is not what the hub names) and was removed: run the command \
                 again",
                self.name
            );
        }
        Ok(())
    }

    /// Names a version whose files are all there as the one to use.
    pub fn complete(&self, sha: &str) -> Result<()> {
        let repo = Cache::new(self.cache.clone()).repo(Repo::model(self.name.into()));
        repo.create_ref(sha).map_err(Error::io("write", &self.root().join("refs").join(MAIN)))?;
        // The crate writes this file for a version asked for by its commit; the Python tools do not.
        let _ = fs::remove_file(self.root().join("refs").join(sha));
        Ok(())
    }

    fn download(&self, sha: &str, file: &str, checksum: &Checksum, report: &mut dyn Download) -> Result<PathBuf> {
        let remote = self.remote(sha)?;
        match remote.download_with_progress(file, Report(report)) {
            Err(ApiError::InvalidResume) => {}
            Err(ApiError::RequestError(error)) if matches!(*error, ureq::Error::Status(416, _)) => {}
            result => return result.map_err(|error| self.explain(file, error)),
        }
        // The part from before is as long as the whole, or longer: it is not a beginning.
        let _ = fs::remove_file(self.blob(checksum).with_extension("part"));
        remote.download_with_progress(file, Report(report)).map_err(|error| self.explain(file, error))
    }

    fn remote(&self, revision: &str) -> Result<ApiRepo> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.hub.endpoint.clone())
            .with_token(self.hub.token.clone())
            .with_user_agent("wgpt", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.explain("a connection", error))?;
        Ok(api.repo(Repo::with_revision(self.name.into(), RepoType::Model, revision.into())))
    }

    /// The model's folder in the cache.
    fn root(&self) -> PathBuf {
        self.cache.join(Repo::model(self.name.into()).folder_name())
    }

    fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.root().join("blobs").join(checksum.digits())
    }

    /// Takes a file out of the cache: its name, and the content it points to.
    fn remove(&self, path: &Path, checksum: &Checksum) {
        let blob = fs::canonicalize(path).ok();
        for file in [Some(path.to_path_buf()), blob, Some(self.blob(checksum))].into_iter().flatten() {
            let _ = fs::remove_file(file); // the next run would find the bad content again, and says so
        }
    }

    /// A sentence with the remedy.
    fn explain(&self, what: &str, error: ApiError) -> Error {
        let (name, endpoint) = (self.name, &self.hub.endpoint);
        Error::Input(match error {
            ApiError::RequestError(error) => match *error {
                ureq::Error::Status(401 | 404, _) => format!(
                    "{name} is neither a folder here nor a public model on {endpoint}: check the name, or set HF_TOKEN \
                     if it is private"
                ),
                ureq::Error::Status(403, _) => format!(
                    "{endpoint} does not give {name} to everybody: accept its terms there and set HF_TOKEN to your token"
                ),
                ureq::Error::Status(code, _) => {
                    format!("{endpoint} refuses {what} of {name} (HTTP status {code}): try again later")
                }
                ureq::Error::Transport(cause) => format!(
                    "{name} is not a folder here, and {endpoint} cannot be reached ({}): check the connection, or give \
                     a folder",
                    one_line(&cause.to_string())
                ),
            },
            ApiError::IoError(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                format!("there is no room for {what} of {name} in {}: set HF_HOME elsewhere", self.hub.cache.display())
            }
            ApiError::IoError(cause) => format!(
                "the download of {what} of {name} broke off ({}): run the command again, it goes on where it stopped",
                one_line(&cause.to_string())
            ),
            ApiError::LockAcquisition(_) => {
                format!("another program is downloading {what} of {name}: wait until it is done")
            }
            other => {
                format!("{endpoint} gave no usable answer for {what} of {name} ({})", one_line(&other.to_string()))
            }
        })
    }
}

/// Hands the crate's progress on.
struct Report<'a>(&'a mut dyn Download);

impl Progress for Report<'_> {
    fn init(&mut self, size: usize, file: &str) {
        self.0.start(file, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.advance(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish();
    }
}

fn is_hexadecimal(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
