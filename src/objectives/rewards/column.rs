//! Rewards by a column of the prompts' rows.

use regex::Regex;
use serde_json::Value;

use super::{Candidate, Rewards};
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;

/// What the column says of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// 1 for the column's text, without spaces around it, and otherwise 0
    Exact,
    /// 1 where the column's regular expression matches, and otherwise 0
    Regex,
    /// Minus the difference from the column's number of tokens, as a share of it
    Length,
}

/// Rewards by a rule over a column.
pub struct ByColumn {
    pub rule: Rule,
    pub column: String,
}

impl ByColumn {
    /// The reward of an answer.
    fn reward(&self, answer: &Candidate) -> Result<f32> {
        let ByColumn { rule, column } = self;
        let (value, line) = (answer.row.get(column).unwrap_or(&Value::Null), answer.line);
        let share = |is_so: bool| if is_so { 1.0 } else { 0.0 };
        match (rule, value) {
            (Rule::Exact, Value::String(wanted)) => Ok(share(answer.answer.trim() == wanted.trim())),
            (Rule::Regex, Value::String(pattern)) => match Regex::new(pattern) {
                Ok(pattern) => Ok(share(pattern.is_match(answer.answer))),
                Err(_) => fail!(Input, "line {line} of the prompts: `{column}` is no regular expression: {pattern}"),
            },
            (Rule::Length, Value::Number(wanted)) if wanted.as_f64().is_some_and(|wanted| wanted > 0.0) => {
                let wanted = wanted.as_f64().unwrap_or(1.0);
                Ok((-(answer.tokens as f64 - wanted).abs() / wanted) as f32)
            }
            (Rule::Length, _) => {
                fail!(Input, "line {line} of the prompts has no number above 0 in `{column}`, for --reward length")
            }
            _ => fail!(Input, "line {line} of the prompts has no text in `{column}`, for --reward-column"),
        }
    }
}

impl Rewards for ByColumn {
    fn of(&mut self, _executor: &mut dyn Executor, answers: &[Candidate]) -> Result<Vec<Option<f32>>> {
        answers.iter().map(|answer| self.reward(answer).map(Some)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_compare_match_and_count() {
        let row = json!({"prompt": "2+2=", "answer": "4 ", "pattern": "^[0-9]+$", "tokens": 4, "none": []});
        let reward = |rule, column: &str, answer: &str, tokens| {
            let row = row.as_object().unwrap();
            let by = ByColumn { rule, column: column.into() };
            by.reward(&Candidate { row, line: 3, whole: String::new(), rendered: false, answer, tokens })
                .map_err(|e| e.to_string())
        };
        assert_eq!(reward(Rule::Exact, "answer", " 4", 1), Ok(1.0));
        assert_eq!(reward(Rule::Exact, "answer", "44", 1), Ok(0.0));
        assert_eq!(reward(Rule::Regex, "pattern", "44", 1), Ok(1.0));
        assert_eq!(reward(Rule::Regex, "pattern", "four", 1), Ok(0.0));
        assert_eq!(reward(Rule::Length, "tokens", "", 4), Ok(0.0));
        assert_eq!(reward(Rule::Length, "tokens", "", 1), Ok(-0.75));
        assert_eq!(reward(Rule::Length, "tokens", "", 8), Ok(-1.0));
        for (rule, column) in [(Rule::Exact, "none"), (Rule::Regex, "absent"), (Rule::Length, "answer")] {
            let error = reward(rule, column, "", 1).unwrap_err();
            assert!(error.contains("line 3") && error.contains(column), "{error}");
        }
    }
}
