//! How much examples count by their class.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::batch::Item;
use crate::data::labelled::target::{Answer, Target};
use crate::error::Result;
use crate::fail;

/// How much examples of each class count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    Equal,
    /// Every class as much as any other: examples / (classes * examples of the class).
    Balanced,
    /// Label and weight; labels that are not named have 1.
    Given(Vec<(String, f32)>),
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "balanced" {
            return Ok(ClassWeights::Balanced);
        }
        let one = |part: &str| {
            let (label, weight) = part.rsplit_once('=')?;
            let weight = weight.trim().parse::<f32>().ok().filter(|w| w.is_finite() && *w >= 0.0)?;
            Some((label.trim().to_string(), weight))
        };
        let all: Option<Vec<_>> = text.split(',').map(one).collect();
        all.map(ClassWeights::Given).ok_or_else(|| "give balanced, or label=weight,label=weight".into())
    }
}

impl ClassWeights {
    /// Refuses weights where there are no labels, as a usage error.
    pub fn check(&self, target: &Target) -> Result<()> {
        if *self != ClassWeights::Equal && !matches!(target, Target::Labels(_)) {
            fail!(Usage, "--class-weights are for labels, and this task has none");
        }
        Ok(())
    }

    /// Sets the weight of every item that has an answer.
    pub fn apply(&self, target: &Target, items: &mut [Item]) -> Result<()> {
        let Target::Labels(labels) = target else { return Ok(()) };
        let class_of = |item: &Item| item.answer.map(Answer::class);
        let weights: Vec<f32> = match self {
            ClassWeights::Equal => return Ok(()),
            ClassWeights::Balanced => {
                let mut counts = vec![0usize; labels.len()];
                items.iter().filter_map(class_of).for_each(|class| counts[class] += 1);
                let weight = |count: &usize| items.len() as f32 / (labels.len() * count.max(&1)) as f32;
                counts.iter().map(weight).collect()
            }
            ClassWeights::Given(given) => {
                if let Some((unknown, _)) = given.iter().find(|(label, _)| !labels.contains(label)) {
                    fail!(Usage, "--class-weights names the label {unknown}, which the data has not");
                }
                let weight = |label: &String| given.iter().find(|(known, _)| known == label).map_or(1.0, |(_, w)| *w);
                labels.iter().map(weight).collect()
            }
        };
        for item in items {
            item.weight = class_of(item).map_or(1.0, |class| weights[class]);
        }
        Ok(())
    }
}
