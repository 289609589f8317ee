//! `wgpt serve` as a client meets it: texts, streams, joins and leaves in one batch, errors, and the end.

use crate::cli::Place;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

/// A server under test; it ends with the test.
struct Server {
    child: Child,
    address: String,
    _messages: BufReader<ChildStderr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer: status, head and body.
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Server {
    fn start(place: &Place, more: &str) -> Server {
        let mut command = place.command(&format!("serve --model model --device cpu --port 0 --template lines {more}"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(messages.read_line(&mut line).unwrap() > 0, "the server ended before it listened");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(',').next().unwrap().to_string();
            }
        };
        Server { child, address, _messages: messages }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends a request whose connection ends with the answer.
    fn send(&self, line: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body);
        stream
    }

    fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let mut text = String::new();
        self.send(line, headers, body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), body: body.into() }
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(&format!("POST {path}"), JSON, body.to_string().as_bytes())
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.ask("GET /metrics", "", b"").body;
        let line =
            text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// The next answer of a connection that stays open.
fn answer_on(stream: &mut TcpStream) -> Answer {
    let mut stream = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the server closed the connection");
        let line = line.to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(rest) = line.strip_prefix("content-length: ") {
            length = rest.trim().parse().unwrap();
        } else if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Answer { status, body: String::from_utf8(body).unwrap() }
}

const JSON: &str = "Content-Type: application/json\r\n";
const COMPLETIONS: &str = "/v1/completions";

fn completion(prompt: &str, tokens: usize, seed: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "seed": seed, "temperature": 0.9, "top_k": 5})
}

/// The objects of a stream of server-sent events, of which the last is `[DONE]`.
fn events(body: &str) -> Vec<Value> {
    let data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{body}");
    data[..data.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn texts_are_those_of_sample_alone_together_and_in_a_stream_and_a_client_that_leaves_frees_its_row() {
    let (place, _) = crate::sample::place();
    let server = Server::start(&place, "--batch 3 --queue 40");
    let sampled = |prompt: &str, seed: usize, tokens: usize| {
        let how = format!("--prompt {prompt} --seed {seed} --tokens {tokens} --temperature 0.9 --top-k 5 --json");
        let output = place.wgpt(&format!("sample --model model --device cpu {how}"));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let alone: Vec<Value> = (0..4).map(|n| sampled("The", n, 9 + 5 * n)).collect();

    // More clients than rows, with texts of different lengths, past the context; one that leaves holds a row at first.
    let long = completion("cat", 4000, 7);
    let mut leaving =
        server.send("POST /v1/completions", JSON, with(&long, "stream", json!(true)).to_string().as_bytes());
    let mut some = [0; 400];
    leaving.read_exact(&mut some).unwrap();
    assert_eq!(server.metric("wgpt_running_texts"), 1);
    std::thread::scope(|scope| {
        let ask = |n: usize| server.post(COMPLETIONS, &completion("The", 9 + 5 * n, n)).json();
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || (n % 4, ask(n % 4)))).collect();
        for (n, answer) in threads.into_iter().map(|thread| thread.join().unwrap()) {
            assert_eq!(answer["choices"][0]["text"], alone[n]["text"], "text {n}");
            assert_eq!(answer["choices"][0]["finish_reason"], "length");
            let usage = json!({"prompt_tokens": 3, "completion_tokens": 9 + 5 * n, "total_tokens": 12 + 5 * n});
            assert_eq!(answer["usage"], usage);
        }
    });
    drop(leaving);
    let began = Instant::now();
    while server.metric("wgpt_running_texts") > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "the row of a client that left was not freed");
    }
    assert_eq!(server.metric("wgpt_cancelled_texts_total"), 1);

    // Several texts of one request have the seeds after one another; log-probabilities are those of sample.
    let several = json!({"n": 2, "logprobs": 2, "echo": false});
    let answer = server.post(COMPLETIONS, &merged(&completion("The", 9, 0), &several)).json();
    assert_eq!(answer["choices"][0]["text"], alone[0]["text"]);
    assert_eq!(answer["choices"][1]["text"], sampled("The", 1, 9)["text"]);
    let told = &answer["choices"][0]["logprobs"];
    let want = alone[0]["log_probabilities"].as_array().unwrap();
    for (n, want) in want.iter().enumerate() {
        let got = told["token_logprobs"][n].as_f64().unwrap();
        assert!((got - want.as_f64().unwrap()).abs() < 1e-4, "{told}");
        assert_eq!(told["top_logprobs"][n].as_object().unwrap().len(), 2, "{told}");
        let best = told["top_logprobs"][n].as_object().unwrap().values().map(|p| p.as_f64().unwrap());
        assert!(best.fold(f64::MIN, f64::max) >= got, "{told}");
    }

    // A stream has the same text, ends with the counts where they are asked for, and stops before a stop text.
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed = events(&server.post(COMPLETIONS, &merged(&completion("The", 19, 2), &options)).body);
    let text: String = streamed.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(json!(text), alone[2]["text"]);
    assert_eq!(streamed.last().unwrap()["usage"]["completion_tokens"], 19);
    let stop: String = text.chars().skip(3).take(2).collect();
    let stopped = server.post(COMPLETIONS, &with(&completion("The", 19, 2), "stop", json!([stop]))).json();
    assert_eq!(stopped["choices"][0]["text"], text[..text.find(&stop).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");

    // A dialogue goes through the template, which writes a space behind what the user says.
    let dialogue = json!({"messages": [{"role": "user", "content": "a cat"}], "max_tokens": 9, "temperature": 0});
    let answer = server.post("/v1/chat/completions", &dialogue).json();
    let plain = json!({"prompt": "a cat ", "max_tokens": 9, "temperature": 0});
    let want = server.post(COMPLETIONS, &plain).json()["choices"][0]["text"].clone();
    assert_eq!(answer["choices"][0]["message"], json!({"role": "assistant", "content": want, "refusal": null}));
    let told = json!({"stream": true, "logprobs": true, "top_logprobs": 3});
    let streamed = events(&server.post("/v1/chat/completions", &merged(&dialogue, &told)).body);
    let pieces = streamed.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(json!(pieces.collect::<String>()), want);
    assert_eq!(streamed[1]["choices"][0]["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap().len(), 3);
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    merged(object, &json!({name: value}))
}

fn merged(object: &Value, more: &Value) -> Value {
    let mut fields = object.as_object().unwrap().clone();
    fields.extend(more.as_object().unwrap().clone());
    Value::Object(fields)
}

#[test]
fn what_cannot_be_answered_is_refused_in_the_form_that_clients_read_and_a_signal_ends_the_server() {
    let (place, _) = crate::sample::place();
    let mut server =
        Server::start(&place, "--batch 1 --queue 1 --max-body 2000 --max-tokens 5000 --name small --api-key secret");
    let key = format!("{JSON}Authorization: Bearer secret\r\n");
    let post = |body: &[u8]| server.ask("POST /v1/completions", &key, body);
    let cases: [(&str, u16, &str); 18] = [
        ("{", 400, "no JSON"),
        ("[]", 400, "no JSON object"),
        ("{}", 400, "`prompt` is missing"),
        (r#"{"prompt": ""}"#, 400, "no tokens"),
        (r#"{"prompt": 5}"#, 400, "`prompt` must be"),
        (r#"{"prompt": [99]}"#, 400, "no token 99"),
        (r#"{"prompt": "x"}"#, 400, "not among"),
        (r#"{"prompt": "The cat sat on mats. The cat"}"#, 400, "the model's context holds 24"),
        (r#"{"prompt": "The", "model": "other"}"#, 404, "the model is"),
        (r#"{"prompt": "The", "temperature": -1}"#, 400, "`temperature` is -1"),
        (r#"{"prompt": "The", "temperature": "hot"}"#, 400, "`temperature`: invalid type"),
        (r#"{"prompt": "The", "max_tokens": 0}"#, 400, "`max_tokens` is 0"),
        (r#"{"prompt": "The", "n": 65}"#, 400, "`n` is 65"),
        (r#"{"prompt": "The", "n": 2}"#, 429, "try again"),
        (r#"{"prompt": "The", "stop": 7}"#, 400, "`stop` must be"),
        (r#"{"prompt": "The", "logit_bias": {"5": 1}}"#, 400, "`logit_bias` is not implemented"),
        (r#"{"prompt": "The", "tempratur": 1}"#, 400, "`tempratur` is no known field"),
        (r#"{"prompt": "The", "echo": true, "logprobs": 1}"#, 400, "`echo` with `logprobs`"),
    ];
    let refused = |answer: &Answer, status: u16, word: &str| {
        assert_eq!(answer.status, status, "{word}: {}", answer.body);
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(word) && error["type"].is_string(), "{word}: {error}");
    };
    for (body, status, word) in cases {
        refused(&post(body.as_bytes()), status, word);
    }
    refused(&post(b"{\"prompt\": \"\xff\"}"), 400, "no JSON");
    refused(&post(&[b' '; 3000]), 413, "larger than the 2000 bytes");
    refused(&server.ask("POST /v1/completions", JSON, b"{}"), 401, "API key");
    refused(&server.ask("POST /v1/completions", "Authorization: Bearer secret\r\n", b"{}"), 415, "application/json");
    refused(&server.ask("GET /v1/completions", &key, b""), 405, "GET is not for");
    refused(&server.ask("GET /v2", &key, b""), 404, "nothing at /v2");
    refused(&server.ask("GET /v1/models/other", &key, b""), 404, "small");
    assert_eq!(server.ask("GET /v1/models", &key, b"").json()["data"][0]["id"], "small");

    // A request that its head already refuses does not end the connection, though its body comes later.
    let mut kept = server.connect();
    let lines = [
        "POST /v1/completions",
        "POST /v2",
        "PUT /v1/completions",
        "POST /health",
        "GET /v1/models/other",
        "GET /health",
    ];
    for (line, status) in lines.into_iter().zip([401, 404, 405, 405, 401, 200]) {
        let body = if line == "GET /health" { vec![] } else { vec![b' '; 1500] };
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: {}\r\n\r\n", body.len());
        kept.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        kept.write_all(&body).unwrap();
        assert_eq!(answer_on(&mut kept).status, status, "{line}");
    }
    assert!(server.ask("GET /", "", b"").body.contains("<!doctype html>"));
    let many = server.metric("wgpt_requests_total{endpoint=\"/v1/completions\",status=\"400\"}");
    assert!(many >= 15, "{many}");

    // One text has the row, one waits, and there is no place for a third; a signal lets both be answered.
    let long = completion("The", 300, 1).to_string();
    let mut first = server.send("POST /v1/completions", &key, long.as_bytes());
    while server.metric("wgpt_running_texts") == 0 {}
    let mut second = server.send("POST /v1/completions", &key, long.as_bytes());
    while server.metric("wgpt_waiting_texts") == 0 {}
    refused(&post(long.as_bytes()), 429, "try again");
    #[cfg(unix)]
    {
        rustix::process::kill_process(rustix::process::Pid::from_child(&server.child), rustix::process::Signal::TERM)
            .unwrap();
        for client in [&mut first, &mut second] {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"completion_tokens\":300"), "{text}");
        }
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
}
