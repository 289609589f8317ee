//! `wgpt prefer`: somebody chooses between answers of a model, and the choices become preferences to learn from.

mod answers;
mod choice;
mod rows;

use super::examples::template_text;
use super::sample::Files;
use super::sample::settings::{Choices, Method};
use super::{Global, console};
use answers::{Asked, Drawer, ROUNDS, text_of};
use choice::{Choice, Degree, degree, parse, shown};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use rows::{Row, Rows, key};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use wgpt::data::dialogues::Part;
use wgpt::data::lines::place;
use wgpt::data::prompts;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::generate::Generator;
use wgpt::graph::Quantisation;
use wgpt::models::network::Network;

#[derive(clap::Args)]
#[command(
    mut_arg("count", |arg| arg.default_value("2").help("Answers to a prompt: 2, or 3 to 7 that are ranked")),
    mut_arg("temperature", |arg| arg.default_value("1").help("Below 1 is more likely text, above 1 more varied")),
    mut_arg("batch", |arg| arg.default_value("16").help("Answers that are drawn at once, ahead of the questions")),
    mut_arg("seed", |arg| arg.help("Seed of the answers and of the order in which they are shown")),
    mut_arg("tokens", |arg| arg.help("Tokens of an answer at most [default: the model's, or 200]")),
    mut_arg("strategy", |arg| arg.hide(true)),
    mut_arg("beams", |arg| arg.hide(true)),
    mut_arg("length_penalty", |arg| arg.hide(true)),
    mut_arg("early_stopping", |arg| arg.hide(true))
)]
pub struct Prefer {
    /// Model folder or GGUF file, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Prompts: .jsonl or .parquet with a `prompt` in each row, a text or a list of messages
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// File of preferences, .jsonl, to which each choice is added; prompts that it has for the criterion are passed over
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What is judged: helpful, safe, or a text that is shown with each question
    #[arg(long, value_name = "helpful|safe|TEXT", default_value = "helpful")]
    criterion: String,
    /// Chat template of messages: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// Positions that the cache holds, of a model with rotary positions [default: the model's context, at most 4096]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    choices: Choices,
}

/// The questions under way.
struct Questions<'a> {
    global: &'a Global,
    criterion: &'a str,
    /// Answers to each prompt.
    count: usize,
    seed: u32,
    drawer: Drawer,
    /// Prompts to ask about, and the answers to those that were drawn.
    asked: Vec<Asked>,
    answers: Vec<Option<Vec<Part>>>,
    /// Prompts of the file that had a row before, and all.
    before: usize,
    all: usize,
    rows: Rows,
    /// What was done about each prompt so far.
    steps: Vec<Step>,
}

/// What was done about a prompt.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// A row was written that begins there in the file.
    Chosen(u64),
    Skipped,
    /// There was nothing to choose from.
    Same,
}

/// What comes after a question.
enum Next {
    Done(Step),
    Back,
    End,
}

impl Prefer {
    pub fn run(&self, global: &Global) -> Result<()> {
        self.choices.check()?;
        let (choices, count) = (self.choices.drawn()?, self.choices.count);
        if !(2..=7).contains(&count) {
            fail!(Usage, "--count {count} is not from 2 to 7: two answers are compared, and more are ranked");
        }
        super::check_device(&global.device)?;
        let criterion = self.criterion.trim();
        if criterion.is_empty() {
            fail!(Usage, "--criterion is empty: give helpful, safe, or a text");
        }
        let prompts = prompts::read(&self.prompts)?;
        let all = prompts.len();
        let files = Files::open(global, (self.model.as_deref(), self.adapter.as_deref()), (self.context, self.base))?;
        files.config.must_decode("write answers")?;
        let tokenizer = match &self.template {
            Some(template) => files.tokenizer.clone().with_chat_template(&template_text(template)?),
            None => files.tokenizer.clone(),
        };
        let template = tokenizer.chat_template()?;
        let vocabulary = tokenizer.vocabulary_size();
        let settings = choices.settle(&files.generation, &files.ends(), vocabulary)?;
        let Method::Draw(draw) = settings.method.clone() else { unreachable!("answers are drawn") };
        let context = files.config.context;
        let (mut asked, mut long) = (vec![], 0);
        for (number, prompt) in prompts.into_iter().enumerate() {
            let place = place(&self.prompts, prompt.line);
            let prompt = Asked::new(prompt, number, &tokenizer);
            let prompt = prompt.map_err(|error| error.in_place(&place))?;
            if prompt.ids.len() < context {
                asked.push(prompt);
            } else {
                long += 1;
            }
        }
        if asked.is_empty() {
            fail!(Input, "no prompt leaves room for an answer in the model's context, {context} tokens: shorten them");
        }
        if long > 0 {
            global.say(&format!(
                "warning: {long} of {all} prompts leave no room for an answer in the model's context, {context} tokens, and are left out"
            ));
        }
        let (rows, mut done) = Rows::open(global, &self.out, criterion)?;
        let fitting = asked.len();
        asked.retain(|prompt| match done.get_mut(&key(&prompt.part)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        });
        let before = fitting - asked.len();
        if asked.is_empty() {
            let out = self.out.display();
            global.say(&format!("{before} of {all} prompts are in {out} already: there is nothing to ask"));
            return Ok(());
        }
        let mut executor = global.open()?;
        let network = Network::new(files.config);
        let at_once = settings.rows(asked.len());
        let generator = Generator::new(executor.as_mut(), &network, &files.weights, vocabulary, at_once)?;
        drop(files.weights);
        let is_special = |text: &str| tokenizer.is_special(text);
        let template = template.filter(|_| asked.iter().any(|prompt| matches!(prompt.part, Part::Messages(_))));
        let end_of_turn = template.map(|template| template.end_of_turn(is_special)).transpose()?.flatten();
        let (seed, answers, steps) = (settings.seed, vec![None; asked.len()], vec![]);
        let drawer = Drawer { executor, generator, tokenizer, settings, draw, end_of_turn };
        let mut questions =
            Questions { global, criterion, count, seed, drawer, asked, answers, before, all, rows, steps };
        questions.explain();
        questions.go(at_once)?;
        let (progress, left, out) = (questions.progress(), questions.left(), self.out.display());
        global.say(&format!("{progress}; the preferences are in {out}"));
        if left > 0 {
            let prompts = if left == 1 { "1 prompt is".to_string() } else { format!("{left} prompts are") };
            global.say(&format!("{prompts} left, which the same command asks about"));
        }
        let model = self.adapter.as_ref().or(self.model.as_ref());
        let model = model.map_or(String::new(), |model| format!("--model {} ", model.display()));
        global.say(&format!("try: wgpt reward {model}--data {out} --out reward"));
        Ok(())
    }
}

impl Questions<'_> {
    fn explain(&self) {
        let how = if self.count == 2 {
            "type 1 or 2 for the better answer, then how much better it is, or both, such as 2 slightly".to_string()
        } else {
            format!(
                "type the answers' numbers from the best to the worst, = between equals, such as {}",
                shown(self.count)
            )
        };
        self.global.say(&format!("{how}; skip, undo (the last choice) and quit are commands, s, u and q for short"));
    }

    /// Asks until all prompts are done, or somebody ends it. So many answers are drawn at once.
    fn go(&mut self, at_once: usize) -> Result<()> {
        let mut input = std::io::stdin().lock();
        let mut next_line = || {
            if std::io::stdin().is_terminal() {
                console::data("> ")?;
            }
            let mut line = String::new();
            let read = input.read_line(&mut line);
            let read =
                read.map_err(|source| Error::Io { action: "read standard input as UTF-8 text".into(), source })?;
            if read == 0 && std::io::stdin().is_terminal() {
                console::line("")?;
            }
            Ok((read > 0).then_some(line))
        };
        loop {
            let at = self.steps.len();
            if at == self.asked.len() {
                if self.nothing_done() || !self.goes_back(&mut next_line)? {
                    return Ok(());
                }
                self.back()?;
                continue;
            }
            if self.answers[at].is_none() {
                let end = self.asked.len().min(at + (at_once / self.count).max(1));
                let prompts: Vec<&Asked> = self.asked[at..end].iter().collect();
                for (place, mut answers) in (at..).zip(self.drawer.draw(&prompts)?) {
                    let number = u64::from(self.asked[place].number);
                    answers.shuffle(&mut Pcg64::seed_from_u64(u64::from(self.seed) << 32 ^ number));
                    self.answers[place] = Some(answers);
                }
            }
            let answers = self.answers[at].clone().unwrap_or_default();
            if answers.len() < self.count {
                let (number, found, count) = (self.asked[at].number + 1, answers.len(), self.count);
                self.global.say(&format!(
                    "prompt {number} is skipped: {ROUNDS} draws gave {found} answers that differ and are not empty, of {count} that are \
                     needed; a higher --temperature gives more"
                ));
                self.steps.push(Step::Same);
                continue;
            }
            self.show(at, &answers)?;
            match self.ask(at, &answers, &mut next_line)? {
                Next::Done(step) => self.steps.push(step),
                Next::Back => self.back()?,
                Next::End => return Ok(()),
            }
        }
    }

    /// Whether somebody takes the last choice back once all prompts are done.
    fn goes_back(&self, next_line: &mut dyn FnMut() -> Result<Option<String>>) -> Result<bool> {
        console::line(format_args!("\n{}\n\nAll prompts are done: undo, or Enter to end", self.progress()))?;
        Ok(next_line()?.and_then(|line| choice::command(&line)) == Some(Choice::Undo))
    }

    /// Whether there is nothing to take back.
    fn nothing_done(&self) -> bool {
        self.steps.iter().all(|step| *step == Step::Same)
    }

    /// Shows a prompt and the answers to it.
    fn show(&self, at: usize, answers: &[Part]) -> Result<()> {
        console::line(format_args!("\n{}\n", self.progress()))?;
        match &self.asked[at].part {
            Part::Text(text) => console::line(format_args!("prompt:\n{text}"))?,
            Part::Messages(messages) => {
                for message in messages {
                    console::line(format_args!("{}:\n{}", message.role, message.content))?;
                }
            }
        }
        for (n, answer) in (1..).zip(answers) {
            console::line(format_args!("\nanswer {n}:\n{}", text_of(answer).trim()))?;
        }
        let (better, best) = match self.criterion {
            "helpful" => ("more helpful".to_string(), "the most helpful first".to_string()),
            "safe" => ("safer".to_string(), "the safest first".to_string()),
            text => (format!("better by the criterion {text:?}"), format!("the best by the criterion {text:?} first")),
        };
        match self.count {
            2 => console::line(format_args!("\nWhich answer is {better}? 1 or 2")),
            count => console::line(format_args!("\nRank the answers, {best}, such as {}", shown(count))),
        }
    }

    /// Reads lines until they say what to do, and writes a row where that is a choice.
    fn ask(
        &mut self,
        at: usize,
        answers: &[Part],
        next_line: &mut dyn FnMut() -> Result<Option<String>>,
    ) -> Result<Next> {
        loop {
            let Some(line) = next_line()? else { return Ok(Next::End) };
            let prompt = &self.asked[at].part;
            let criterion = self.criterion;
            let row = match parse(&line, self.count) {
                Err(problem) => {
                    console::line(problem)?;
                    continue;
                }
                Ok(Choice::Quit) => return Ok(Next::End),
                Ok(Choice::Skip) => return Ok(Next::Done(Step::Skipped)),
                Ok(Choice::Undo) if self.nothing_done() => {
                    console::line("there is nothing to undo: no choice has been made since the start")?;
                    continue;
                }
                Ok(Choice::Undo) => return Ok(Next::Back),
                Ok(Choice::Ranks(ranks)) => {
                    self.rows.push(&Row::Ranking { prompt, answers, ranks: &ranks, criterion })?
                }
                Ok(Choice::Better(better, given)) => {
                    let degree = match given {
                        Some(degree) => degree,
                        None => match how_much(next_line)? {
                            Some(Ok(degree)) => degree,
                            Some(Err(Choice::Skip)) => return Ok(Next::Done(Step::Skipped)),
                            Some(Err(Choice::Undo)) => {
                                console::line("Which answer, then? 1 or 2")?;
                                continue;
                            }
                            _ => return Ok(Next::End),
                        },
                    };
                    let (chosen, rejected) = (&answers[better], &answers[1 - better]);
                    self.rows.push(&Row::Pair { prompt, chosen, rejected, margin: degree.margin(), criterion })?
                }
            };
            return Ok(Next::Done(Step::Chosen(row)));
        }
    }

    /// Goes back to the last question, and takes its row back.
    fn back(&mut self) -> Result<()> {
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Same => continue,
                Step::Skipped => console::line("back to the prompt that was skipped")?,
                Step::Chosen(start) => {
                    self.rows.pop(start)?;
                    console::line("the last choice is taken back")?;
                }
            }
            break;
        }
        Ok(())
    }

    /// How many prompts are done: "12 of 200 prompts, 1 skipped".
    fn progress(&self) -> String {
        let chosen = self.steps.iter().filter(|step| matches!(step, Step::Chosen(_))).count();
        let skipped = self.steps.len() - chosen;
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        format!("{} of {} prompts{skipped}", self.before + chosen, self.all)
    }

    /// Prompts without a choice.
    fn left(&self) -> usize {
        self.asked.len() - self.steps.iter().filter(|step| matches!(step, Step::Chosen(_))).count()
    }
}

/// Reads lines until they say how much better an answer is, or are a command.
fn how_much(
    next_line: &mut dyn FnMut() -> Result<Option<String>>,
) -> Result<Option<std::result::Result<Degree, Choice>>> {
    console::line("How much better? significantly, better, slightly, or negligibly")?;
    while let Some(line) = next_line()? {
        match (degree(&line), choice::command(&line)) {
            (Ok(degree), _) => return Ok(Some(Ok(degree))),
            // One letter may be the beginning of a degree.
            (Err(_), Some(command)) if command != Choice::Skip || line.trim().len() > 1 => {
                return Ok(Some(Err(command)));
            }
            (Err(problem), _) => console::line(problem)?,
        }
    }
    Ok(None)
}
