//! Rewards by a command of the user's: it reads a JSON object a line, `prompt`, `completion` and the other columns of the row, and writes a
//! number for each, or null where it cannot judge. It is started once, and answers batch after batch.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Candidate, Rewards};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::fail;

/// Rewards by a command.
pub struct ByCommand {
    command: String,
    /// Seconds that it may take for the answers of one step.
    seconds: f32,
    running: Option<Running>,
}

/// The command under way.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl ByCommand {
    /// `command` goes to the system's shell.
    pub fn new(command: &str, seconds: f32) -> ByCommand {
        ByCommand { command: command.into(), seconds, running: None }
    }

    fn start(&self) -> Result<Running> {
        let (shell, option) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let child =
            Command::new(shell).args([option, &self.command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child
            .map_err(|source| Error::Io { action: format!("start the reward command `{}`", self.command), source })?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).for_each(drop);
        });
        Ok(Running { child, input, lines })
    }

    /// The rewards of lines that are written to the command.
    fn ask(&self, running: &mut Running, asked: String, count: usize) -> Result<Vec<Option<f32>>> {
        let (command, seconds) = (&self.command, self.seconds);
        // The command may answer before it has read all, so that one of the two pipes is full: another thread writes.
        let mut input = running.input.take().expect("a command that is asked has an input");
        let writer =
            std::thread::spawn(move || input.write_all(asked.as_bytes()).and_then(|()| input.flush()).map(|()| input));
        let end = Instant::now() + Duration::from_secs_f32(seconds);
        let mut rewards = vec![];
        while rewards.len() < count {
            let answered = rewards.len();
            match running.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => rewards.push(number(&line).map_err(|()| {
                    let nth = answered + 1;
                    Error::Input(format!(
                        "the reward command `{command}` wrote {line:?} for answer {nth} of {count}: it must write a number, or null"
                    ))
                })?),
                Err(RecvTimeoutError::Timeout) => fail!(
                    Input,
                    "the reward command `{command}` gave {answered} rewards for {count} answers within {seconds} s: give it longer \
                     with --reward-timeout, or mend it"
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait().map_or(String::new(), |status| format!(" ({status})"));
                    fail!(
                        Input,
                        "the reward command `{command}` ended{status} after {answered} rewards for {count} answers: it must go on \
                         until its input ends"
                    )
                }
            }
        }
        // All were answered, so all were read.
        running.input = writer.join().ok().and_then(std::result::Result::ok);
        Ok(rewards)
    }
}

/// A line of the command.
fn number(line: &str) -> std::result::Result<Option<f32>, ()> {
    match line.trim() {
        "null" | "None" => Ok(None),
        text => text.parse::<f32>().ok().filter(|value| value.is_finite()).map(Some).ok_or(()),
    }
}

impl Rewards for ByCommand {
    fn of(&mut self, _executor: &mut dyn Executor, answers: &[Candidate]) -> Result<Vec<Option<f32>>> {
        let mut running = match self.running.take().filter(|running| running.input.is_some()) {
            Some(running) => running,
            None => self.start()?,
        };
        let line = |answer: &Candidate| {
            let mut row = answer.row.clone();
            row.insert("completion".into(), answer.answer.into());
            Value::Object(row).to_string() + "\n"
        };
        let rewards = self.ask(&mut running, answers.iter().map(line).collect(), answers.len())?;
        self.running = Some(running);
        Ok(rewards)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself when its input does; one that hangs is ended.
        self.input = None;
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::reference::Cpu;
    use serde_json::json;

    #[test]
    fn a_command_is_asked_again_and_its_failures_are_sentences() {
        let row = json!({"prompt": "p", "n": 2});
        let judged = |answer| Candidate {
            row: row.as_object().unwrap(),
            line: 1,
            whole: String::new(),
            rendered: false,
            answer,
            tokens: 1,
        };
        let answers = ["one", "three", "x"].map(judged);
        let ask = |by: &mut ByCommand| by.of(&mut Cpu::default(), &answers).map_err(|error| error.to_string());
        let mut by = ByCommand::new(
            r#"while read -r line; do case "$line" in *three*) echo null;; *) echo 0.5;; esac; done"#,
            20.0,
        );
        for _ in 0..2 {
            assert_eq!(ask(&mut by), Ok(vec![Some(0.5), None, Some(0.5)]));
        }
        for (command, parts) in [
            ("echo 1; exit 3", ["ended", "1 rewards for 3"]),
            ("while read -r line; do echo nan; done", ["\"nan\"", "answer 1 of 3"]),
            ("sleep 9", ["0 rewards for 3", "--reward-timeout"]),
        ] {
            let error = ask(&mut ByCommand::new(command, 0.4)).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
