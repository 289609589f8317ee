//! Models of the Hugging Face hub: a cache laid out as the Python tools do, and a small server that serves a model, breaks
//! off and sends wrong bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::formats::hub::{Download, Hub, is_name};
use wgpt::formats::safetensors::{WeightType, write_weights};
use wgpt::models::config::Config;

const NAME: &str = "some-org/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";
/// What is listed by SHA-256 and served after a redirect, as the hub does with large files.
const LARGE: [&str; 2] = ["safetensors", "bin"];

#[derive(Default)]
struct State {
    /// What is listed.
    files: BTreeMap<String, Vec<u8>>,
    /// What is sent instead of a listed file.
    wrong: BTreeMap<String, Vec<u8>>,
    /// The next answer with more bytes than this ends after as many.
    break_after: Option<usize>,
    /// Answer everything with this status.
    status: Option<u16>,
    /// Request lines, with the range and authorization if there are any.
    requests: Vec<String>,
}

/// A hub with one model.
struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn new(files: &[(&str, &[u8])]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, address, &mut shared.lock().unwrap()); // the client may hang up
            }
        });
        Server { address, state }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub { cache: cache.into(), endpoint: self.endpoint(), token: None, offline: false }
    }
}

fn answer(mut stream: TcpStream, address: SocketAddr, state: &mut State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let found = headers.iter().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_string())
    };
    let (range, token) = (header("range").unwrap_or_default(), header("authorization").unwrap_or_default());
    state.requests.push(format!("{request} {range} {token}").trim().to_string());
    let path = request.split(' ').nth(1).unwrap_or_default();
    if let Some(status) = state.status {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if path.starts_with(&format!("/api/models/{NAME}/revision/main")) {
        let body = listing(&state.files);
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }
    let Some(file) = path.rsplit('/').next().filter(|file| state.files.contains_key(*file)) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (large, sum) = checksum(file, &state.files[file]);
    if large && !path.starts_with("/cdn/") {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: http://{address}/cdn/{file}\r\nX-Linked-Etag: \"{sum}\"\r\n\
             X-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let body = state.wrong.get(file).unwrap_or(&state.files[file]);
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let (first, last) = (first.parse().unwrap_or(0), last.parse().unwrap_or(body.len() - 1));
    if first >= body.len() {
        return write!(stream, "HTTP/1.1 416 Range\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let part = &body[first..=last];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\
         ETag: \"{sum}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        body.len()
    )?;
    match state.break_after.take_if(|bytes| part.len() > *bytes) {
        Some(bytes) => stream.write_all(&part[..bytes]),
        None => stream.write_all(part),
    }
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| match checksum(name, bytes) {
            (true, sum) => json!({"rfilename": name, "blobId": COMMIT, "lfs": {"sha256": sum}}),
            (false, sum) => json!({"rfilename": name, "blobId": sum}),
        })
        .collect();
    json!({"sha": COMMIT, "siblings": files}).to_string()
}

/// Whether a file is large, and the checksum that the hub lists for it.
fn checksum(file: &str, bytes: &[u8]) -> (bool, String) {
    let large = LARGE.iter().any(|end| file.ends_with(end));
    let digest: Vec<u8> = if large {
        Sha256::digest(bytes).to_vec()
    } else {
        Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize().to_vec()
    };
    (large, digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Remembers its messages.
#[derive(Default)]
struct Recorder {
    sizes: BTreeMap<String, u64>,
    file: String,
    done: u64,
    finished: Vec<String>,
}

impl Download for Recorder {
    fn start(&mut self, file: &str, bytes: u64) {
        self.sizes.insert(file.into(), bytes);
        self.file = file.into();
        self.done = 0;
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
    }

    fn finish(&mut self) {
        assert_eq!(self.done, self.sizes[&self.file], "all bytes of {} were told", self.file);
        self.finished.push(self.file.clone());
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = Pcg64::seed_from_u64(bytes as u64);
    (0..bytes).map(|_| rng.random()).collect()
}

/// Where a model is in a cache.
fn root(cache: &Path) -> PathBuf {
    cache.join("models--some-org--tiny")
}

fn blob(cache: &Path, file: &str, bytes: &[u8]) -> PathBuf {
    root(cache).join("blobs").join(checksum(file, bytes).1)
}

#[track_caller]
fn refused(result: wgpt::error::Result<PathBuf>, words: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is missing in: {message}"));
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn a_model_is_fetched_into_the_layout_of_the_python_tools_and_then_used_without_asking() {
    let weights = noise(300_000);
    let files: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"model\": 1}"),
        (WEIGHTS, &weights),
        ("README.md", b"not needed"),
        ("pytorch_model.bin", b"not needed"),
        ("flax_model.msgpack", b"not needed"),
    ];
    let (server, cache) = (Server::new(&files), tempfile::tempdir().unwrap());
    let mut hub = server.hub(cache.path());
    hub.token = Some("secret".into());
    let mut recorder = Recorder::default();
    let folder = hub.model(NAME, &mut recorder).unwrap();
    assert_eq!(recorder.finished, ["config.json", "tokenizer.json", WEIGHTS]);
    assert_eq!(recorder.sizes[WEIGHTS], 300_000);
    let requests = server.requests();
    assert!(requests.iter().all(|line| !line.contains("README") && !line.contains("pytorch")), "{requests:?}");
    let named = requests.iter().filter(|line| !line.contains("/cdn/"));
    assert!(named.clone().count() > 3 && named.clone().all(|line| line.ends_with("Bearer secret")), "{requests:?}");

    assert_eq!(folder, root(cache.path()).join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root(cache.path()).join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read_dir(root(cache.path()).join("refs")).unwrap().count(), 1);
    assert_eq!(std::fs::read(folder.join(WEIGHTS)).unwrap(), weights);
    for (file, bytes) in &files[..3] {
        assert_eq!(std::fs::read(blob(cache.path(), file, bytes)).unwrap(), *bytes, "{file}");
    }
    assert_eq!(hub.model(NAME, &mut Recorder::default()).unwrap(), folder);
    hub.offline = true;
    assert_eq!(hub.model(NAME, &mut Recorder::default()).unwrap(), folder);
    assert_eq!(server.requests(), [""; 0], "what is cached needs no request");
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let weights = noise(300_000);
    let server = Server::new(&[("config.json", b"{}"), ("vocab.json", b"{}"), (WEIGHTS, &weights)]);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    server.set(|state| state.break_after = Some(123_456));
    refused(hub.model(NAME, &mut Recorder::default()), &[WEIGHTS, NAME, "broke off", "again"]);
    let part = blob(cache.path(), WEIGHTS, &weights).with_extension("part");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), 123_456);
    assert!(!root(cache.path()).join("refs/main").exists(), "half a model is not offered to other tools");

    server.requests();
    let folder = hub.model(NAME, &mut Recorder::default()).unwrap();
    let requests = server.requests();
    assert!(requests.iter().any(|line| line.ends_with("bytes=123456-")), "{requests:?}");
    assert!(!requests.iter().any(|line| line.contains("config.json")), "what is there is kept: {requests:?}");
    assert_eq!(std::fs::read(folder.join(WEIGHTS)).unwrap(), weights);
    assert!(!part.exists());
}

#[test]
fn a_part_as_long_as_the_file_does_not_stand_in_the_way() {
    for (length, what) in [(300_000, "complete but for its name"), (300_001, "too long")] {
        let weights = noise(300_000);
        let server = Server::new(&[("config.json", b"{}"), ("vocab.json", b"{}"), (WEIGHTS, &weights)]);
        let cache = tempfile::tempdir().unwrap();
        let part = blob(cache.path(), WEIGHTS, &weights).with_extension("part");
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, noise(length)).unwrap();
        let folder = server.hub(cache.path()).model(NAME, &mut Recorder::default()).expect(what);
        assert_eq!(std::fs::read(folder.join(WEIGHTS)).unwrap(), weights, "{what}");
    }
}

#[test]
fn damaged_files_are_refused_and_do_not_stay() {
    let weights = noise(300_000);
    let config = b"{\"n_layer\": 2}";
    let server = Server::new(&[("config.json", config), ("vocab.json", b"{}"), (WEIGHTS, &weights)]);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let mut flipped = weights.clone();
    flipped[200_000] ^= 1;
    for (file, good, bad) in [("config.json", &config[..], &b"{\"n_layer\": 3}"[..]), (WEIGHTS, &weights, &flipped)] {
        server.set(|state| state.wrong = BTreeMap::from([(file.into(), bad.to_vec())]));
        refused(hub.model(NAME, &mut Recorder::default()), &[file, NAME, "checksum", "removed"]);
        assert!(!blob(cache.path(), file, good).exists(), "{file}");
        let link = root(cache.path()).join("snapshots").join(COMMIT).join(file);
        assert!(std::fs::symlink_metadata(link).is_err(), "{file}");
    }
    assert!(!root(cache.path()).join("refs/main").exists());

    // A part from before that is not a beginning of the file is found out too.
    server.set(|state| state.wrong.clear());
    std::fs::write(blob(cache.path(), WEIGHTS, &weights).with_extension("part"), [7; 1000]).unwrap();
    refused(hub.model(NAME, &mut Recorder::default()), &["checksum"]);

    // So is a file that was left without a check, as by a kill between download and check.
    std::fs::write(blob(cache.path(), WEIGHTS, &weights), &flipped).unwrap();
    let folder = hub.model(NAME, &mut Recorder::default()).unwrap();
    assert_eq!(std::fs::read(folder.join(WEIGHTS)).unwrap(), weights);
}

#[test]
fn shards_are_fetched_as_their_index_names_them_and_only_from_beside_it() {
    let index =
        json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}});
    let index = index.to_string();
    let shards = [noise(1000), noise(2000)];
    let server = Server::new(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", &shards[0]),
        ("model-2.safetensors", &shards[1]),
        ("model-3.safetensors", b"not in the index"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let folder = server.hub(cache.path()).model(NAME, &mut Recorder::default()).unwrap();
    for (n, shard) in shards.iter().enumerate() {
        assert_eq!(std::fs::read(folder.join(format!("model-{}.safetensors", n + 1))).unwrap(), *shard);
    }
    assert!(!folder.join("model-3.safetensors").exists());

    // A cache with one shard missing is not a model yet.
    std::fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    let offline = Hub { offline: true, ..server.hub(cache.path()) };
    refused(offline.model(NAME, &mut Recorder::default()), &[NAME, "HF_HUB_OFFLINE"]);
    server.hub(cache.path()).model(NAME, &mut Recorder::default()).unwrap();
    offline.model(NAME, &mut Recorder::default()).unwrap();

    let cache = tempfile::tempdir().unwrap();
    let outside = json!({"weight_map": {"a": "../../outside.safetensors"}}).to_string();
    server.set(|state| _ = state.files.insert("model.safetensors.index.json".into(), outside.into_bytes()));
    refused(server.hub(cache.path()).model(NAME, &mut Recorder::default()), &["index", NAME]);
}

#[test]
fn refusals_of_the_hub_name_a_remedy() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::new(&[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")]);
    let hub = server.hub(cache.path());
    refused(hub.model(NAME, &mut Recorder::default()), &[NAME, "safetensors", "save_pretrained"]);
    for (status, word) in [(401, "HF_TOKEN"), (404, "check the name"), (403, "terms"), (500, "500")] {
        server.set(|state| state.status = Some(status));
        refused(hub.model(NAME, &mut Recorder::default()), &[NAME, word]);
    }
    server.set(|state| (state.status, state.files) = (None, BTreeMap::from([("a.txt".into(), b"text".to_vec())])));
    refused(hub.model(NAME, &mut Recorder::default()), &["config.json"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Hub { endpoint: format!("http://{nobody}"), ..hub.clone() };
    refused(unreachable.model(NAME, &mut Recorder::default()), &["cannot be reached", "connection"]);
    refused(hub.model("../escape", &mut Recorder::default()), &["ORG/NAME"]);
}

#[test]
fn names_have_one_slash_and_plain_parts() {
    for good in ["openai-community/gpt2", "a/b", "Org_1/Name.v2-x"] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["gpt2", "a/b/c", "../b", "a/..", "./b", "/b", "a/", "a b/c", "a/b--c", "a\\b/c", "~/x", "ä/b"] {
        assert!(!is_name(bad), "{bad}");
    }
}

/// The program in a folder of its own, with a hub and without the user's environment.
fn wgpt(folder: &Path, endpoint: &str, more: &[(&str, &str)], arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.join("hf")).env("HF_ENDPOINT", endpoint).envs(more.iter().copied());
    command.args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

#[test]
fn commands_take_hub_names_and_a_folder_of_that_name_wins() {
    let place = tempfile::tempdir().unwrap();
    let config = Config::new(256, 8, 1, 2, 16);
    let model = place.path().join("source");
    std::fs::create_dir(&model).unwrap();
    let values: Vec<_> = config
        .parameters()
        .into_iter()
        .map(|(name, shape)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| (i % 7) as f32 / 10.0).collect();
            (name, shape, values)
        })
        .collect();
    let tensors: Vec<_> = values.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice())).collect();
    write_weights(&model.join(WEIGHTS), &config.stored(&tensors), &[], WeightType::F32).unwrap();
    std::fs::write(model.join("config.json"), config.to_json()).unwrap();
    std::fs::write(model.join("tokenizer.json"), Tokenizer::bytes().unwrap().json()).unwrap();
    let read = |name: &str| std::fs::read(model.join(name)).unwrap();
    let files = ["config.json", "tokenizer.json", WEIGHTS].map(|name| (name, read(name)));
    let server = Server::new(&files.each_ref().map(|(name, bytes)| (*name, bytes.as_slice())));

    std::fs::write(place.path().join("ids.json"), "[[1, 2]]").unwrap();
    std::fs::create_dir_all(place.path().join("hf")).unwrap();
    std::fs::write(place.path().join("hf/token"), "from-login\n").unwrap();
    let eval = format!("eval --model {NAME} --ids ids.json --logits logits.safetensors --device cpu");
    let output = wgpt(place.path(), &server.endpoint(), &[], &eval);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && messages.contains(&format!("downloading {WEIGHTS} of {NAME}")), "{messages}");
    assert!(place.path().join("logits.safetensors").exists());
    assert!(server.requests()[0].ends_with("Bearer from-login"));
    assert!(place.path().join("hf/hub/models--some-org--tiny/refs/main").exists());

    // The same cache, moved, without a server.
    std::fs::rename(place.path().join("hf/hub"), place.path().join("moved")).unwrap();
    let offline = [("HF_HUB_CACHE", "moved"), ("HF_HUB_OFFLINE", "1")];
    for command in ["export --out out.gguf --model", "sample --device cpu --tokens 3 --prompt a --model"] {
        let output = wgpt(place.path(), &server.endpoint(), &offline, &format!("{command} {NAME}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = wgpt(place.path(), &server.endpoint(), &[("HF_HUB_OFFLINE", "1")], &eval);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.contains("HF_HUB_OFFLINE"), "{message}");

    std::fs::create_dir(place.path().join("some-org")).unwrap();
    std::fs::rename(&model, place.path().join(NAME)).unwrap();
    let output = wgpt(place.path(), &server.endpoint(), &[], &eval);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.requests(), [""; 0]);
}
