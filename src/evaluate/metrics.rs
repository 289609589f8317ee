//! Metrics of predictions: accuracy, macro F1, Matthews correlation, Pearson, Spearman, and the confusion matrix.
//! Where a figure is not defined (one class only, a constant), it is 0 as in scikit-learn, or NaN for Pearson and Spearman as
//! in SciPy.

use serde::{Deserialize, Serialize};

/// How many examples of each true class (rows) were taken for which class (columns).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion(pub Vec<Vec<u64>>);

impl Confusion {
    /// Counts pairs of classes below `classes`.
    pub fn new(classes: usize, truth: &[usize], predicted: &[usize]) -> Self {
        assert_eq!(truth.len(), predicted.len(), "a prediction for every example");
        let mut counts = vec![vec![0; classes]; classes];
        truth.iter().zip(predicted).for_each(|(&t, &p)| counts[t][p] += 1);
        Confusion(counts)
    }

    fn total(&self) -> f64 {
        self.0.iter().flatten().sum::<u64>() as f64
    }

    fn right(&self) -> f64 {
        self.0.iter().enumerate().map(|(class, row)| row[class]).sum::<u64>() as f64
    }

    /// How often each class is true, and how often it is predicted.
    fn margins(&self) -> Vec<(f64, f64)> {
        let column = |class: usize| self.0.iter().map(|row| row[class]).sum::<u64>() as f64;
        self.0.iter().enumerate().map(|(class, row)| (row.iter().sum::<u64>() as f64, column(class))).collect()
    }

    /// The share of right predictions.
    pub fn accuracy(&self) -> f64 {
        self.right() / self.total().max(1.0)
    }

    /// The mean over classes of F1 = 2 right / (true + predicted), over those that occur, as scikit-learn's `macro`.
    pub fn macro_f1(&self) -> f64 {
        let margins = self.margins();
        let occurring = margins.iter().enumerate().filter(|(_, (t, p))| t + p > 0.0);
        let f1: Vec<f64> = occurring.map(|(class, (t, p))| 2.0 * self.0[class][class] as f64 / (t + p)).collect();
        f1.iter().sum::<f64>() / f1.len().max(1) as f64
    }

    /// Matthews correlation for any number of classes (Gorodkin 2004), 0 where either side has only one class.
    pub fn matthews(&self) -> f64 {
        let (n, right, margins) = (self.total(), self.right(), self.margins());
        let sum = |f: &dyn Fn(&(f64, f64)) -> f64| margins.iter().map(f).sum::<f64>();
        let covariance = right * n - sum(&|(t, p)| t * p);
        let spread = ((n * n - sum(&|(t, _)| t * t)) * (n * n - sum(&|(_, p)| p * p))).sqrt();
        if spread == 0.0 { 0.0 } else { covariance / spread }
    }
}

/// Pearson's correlation; NaN for fewer than two points or a constant.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "pairs of numbers");
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    if spread > 0.0 { (sum(&|x, y| x * y) / spread).clamp(-1.0, 1.0) } else { f64::NAN }
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 1 on, ties averaged.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut ranks, mut below) = (vec![0.0; values.len()], 0);
    for tie in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = below as f64 + (tie.len() + 1) as f64 / 2.0;
        tie.iter().for_each(|&i| ranks[i] = rank);
        below += tie.len();
    }
    ranks
}

/// One of the measures by its name, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    Accuracy,
    /// F1, averaged over classes.
    F1,
    Matthews,
    Pearson,
    Spearman,
}

impl Measure {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy",
            Measure::F1 => "f1",
            Measure::Matthews => "matthews",
            Measure::Pearson => "pearson",
            Measure::Spearman => "spearman",
        }
    }
}

/// All measures that fit a task's predictions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Metrics {
    Classes { accuracy: f64, f1: f64, matthews: f64, confusion: Confusion },
    Values { pearson: f64, spearman: f64 },
}

impl Metrics {
    pub fn of_classes(classes: usize, truth: &[usize], predicted: &[usize]) -> Self {
        let confusion = Confusion::new(classes, truth, predicted);
        let (accuracy, f1, matthews) = (confusion.accuracy(), confusion.macro_f1(), confusion.matthews());
        Metrics::Classes { accuracy, f1, matthews, confusion }
    }

    pub fn of_values(truth: &[f64], predicted: &[f64]) -> Self {
        Metrics::Values { pearson: pearson(truth, predicted), spearman: spearman(truth, predicted) }
    }

    /// The value of a measure; none where it is not of this task's kind.
    pub fn get(&self, measure: Measure) -> Option<f64> {
        match (self, measure) {
            (Metrics::Classes { accuracy, .. }, Measure::Accuracy) => Some(*accuracy),
            (Metrics::Classes { f1, .. }, Measure::F1) => Some(*f1),
            (Metrics::Classes { matthews, .. }, Measure::Matthews) => Some(*matthews),
            (Metrics::Values { pearson, .. }, Measure::Pearson) => Some(*pearson),
            (Metrics::Values { spearman, .. }, Measure::Spearman) => Some(*spearman),
            _ => None,
        }
    }
}

impl std::fmt::Display for Metrics {
    /// One line for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Metrics::Classes { accuracy, f1, matthews, .. } => {
                write!(f, "accuracy {accuracy:.4}, macro F1 {f1:.4}, Matthews {matthews:.4}")
            }
            Metrics::Values { pearson, spearman } => write!(f, "Pearson {pearson:.4}, Spearman {spearman:.4}"),
        }
    }
}

impl std::fmt::Display for Confusion {
    /// A row for each true class, a column for each predicted one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for row in &self.0 {
            let cells: Vec<String> = row.iter().map(|count| format!("{count:>7}")).collect();
            writeln!(f, "{}", cells.join(""))?;
        }
        Ok(())
    }
}
