//! What somebody types to choose between answers.

/// A line that was typed, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The better of two answers, counted from 0, and how much better, where that is said.
    Better(usize, Option<Degree>),
    /// The rank of each answer, from 1, the best.
    Ranks(Vec<usize>),
    Skip,
    Undo,
    Quit,
}

/// How much better an answer is ("Llama 2", Touvron et al. 2023, section 3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degree {
    Significantly,
    Better,
    Slightly,
    Negligibly,
}

impl Degree {
    const ALL: [(&str, Degree); 4] = [
        ("significantly", Degree::Significantly),
        ("better", Degree::Better),
        ("slightly", Degree::Slightly),
        ("negligibly", Degree::Negligibly),
    ];

    /// The small margins of "Llama 2" (Touvron et al. 2023, table 27).
    pub fn margin(self) -> f64 {
        match self {
            Degree::Significantly => 1.0,
            Degree::Better => 2.0 / 3.0,
            Degree::Slightly => 1.0 / 3.0,
            Degree::Negligibly => 0.0,
        }
    }
}

/// Commands, by their names; one letter is enough.
const COMMANDS: [(&str, Choice); 3] = [("skip", Choice::Skip), ("undo", Choice::Undo), ("quit", Choice::Quit)];

/// The line of a choice between `count` answers, or what is wrong with it.
pub fn parse(line: &str, count: usize) -> Result<Choice, String> {
    let line = line.trim().to_lowercase();
    if let Some(command) = command(&line) {
        return Ok(command);
    }
    if count > 2 {
        return ranks(&line, count).map(Choice::Ranks);
    }
    let mut words = line.split_whitespace();
    let better = match words.next() {
        Some("1") => 0,
        Some("2") => 1,
        _ => return Err("type 1 or 2 for the better answer, or skip, undo, or quit".into()),
    };
    let rest: Vec<&str> = words.collect();
    let degree = if rest.is_empty() { None } else { Some(degree(&rest.join(" "))?) };
    Ok(Choice::Better(better, degree))
}

/// A command, where the line is one.
pub fn command(line: &str) -> Option<Choice> {
    let line = line.trim().to_lowercase();
    let is_of = |name: &str| !line.is_empty() && name.starts_with(&line);
    COMMANDS.into_iter().find(|(name, _)| is_of(name)).map(|(_, command)| command)
}

/// How much better, by a word or its beginning, or what is wrong with it.
pub fn degree(text: &str) -> Result<Degree, String> {
    let text = text.trim().to_lowercase();
    let mut found = Degree::ALL.into_iter().filter(|(name, _)| !text.is_empty() && name.starts_with(&text));
    match (found.next(), found.next()) {
        (Some((_, degree)), None) => Ok(degree),
        (Some((first, _)), Some((second, _))) => Err(format!("{text} may be {first} or {second}: type more of it")),
        _ => Err("type significantly, better, slightly, or negligibly; the first letters are enough".into()),
    }
}

/// The rank of each answer in an order such as `2 1=3 4`, from the best to the worst.
fn ranks(line: &str, count: usize) -> Result<Vec<usize>, String> {
    let example = || {
        format!("type the numbers 1 to {count} from the best to the worst, = between equals, such as {}", shown(count))
    };
    let line = line.replace('=', " = ");
    let (mut ranks, mut rank, mut tied) = (vec![0; count], 0, false);
    for word in line.split_whitespace() {
        if word == "=" {
            if tied || rank == 0 {
                return Err(example());
            }
            tied = true;
            continue;
        }
        let answer = word.parse().ok().filter(|answer| (1..=count).contains(answer)).ok_or_else(example)?;
        if ranks[answer - 1] != 0 {
            return Err(format!("answer {answer} is there twice: {}", example()));
        }
        rank += usize::from(!tied);
        (ranks[answer - 1], tied) = (rank, false);
    }
    if tied || rank == 0 {
        return Err(example());
    }
    if let Some(missing) = ranks.iter().position(|rank| *rank == 0) {
        return Err(format!("answer {} is missing: {}", missing + 1, example()));
    }
    if rank == 1 {
        return Err("all answers are equal, from which nothing is learned: rank one above another, or skip".into());
    }
    Ok(ranks)
}

/// An order of so many answers with a tie, for people.
pub fn shown(count: usize) -> String {
    let rest = (4..=count).map(|answer| format!(" {answer}")).collect::<String>();
    format!("2 1=3{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_choice_or_says_what_to_type() {
        assert_eq!(parse(" 2 ", 2), Ok(Choice::Better(1, None)));
        assert_eq!(parse("1 Slight", 2), Ok(Choice::Better(0, Some(Degree::Slightly))));
        assert_eq!(parse("u", 2), Ok(Choice::Undo));
        assert_eq!(parse("SKIP", 5), Ok(Choice::Skip));
        assert_eq!(parse("2 1=3", 3), Ok(Choice::Ranks(vec![2, 1, 2])));
        assert_eq!(parse("4 = 2 1 3", 4), Ok(Choice::Ranks(vec![2, 1, 3, 1])));
        assert_eq!(shown(5), "2 1=3 4 5");
        for (line, count, words) in [
            ("3", 2, "1 or 2"),
            ("", 2, "1 or 2"),
            ("1 s", 2, "significantly or slightly"),
            ("1 hugely", 2, "negligibly"),
            ("2 1", 3, "answer 3 is missing"),
            ("2 1 1", 3, "answer 1 is there twice"),
            ("1=2=3", 3, "all answers are equal"),
            ("= 1 2 3", 3, "such as 2 1=3"),
            ("1 2 3 =", 3, "such as 2 1=3"),
            ("1 2 8", 3, "such as 2 1=3"),
        ] {
            let problem = parse(line, count).unwrap_err();
            assert!(problem.contains(words), "{line:?}: {problem}");
        }
    }

    #[test]
    fn margins_are_the_small_ones_of_llama_2() {
        let margins: Vec<f64> = ["si", "b", "sl", "n"].map(|text| degree(text).unwrap().margin()).to_vec();
        assert_eq!(margins, [1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
    }
}
