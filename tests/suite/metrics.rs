//! Metrics against scikit-learn's and SciPy's values. tests/fixtures/metrics.py makes them.

use serde_json::Value;
use wgpt::evaluate::metrics::{Confusion, Measure, Metrics, pearson, spearman};

fn fixture(kind: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn numbers<T: serde::de::DeserializeOwned>(case: &Value, key: &str) -> T {
    serde_json::from_value(case[key].clone()).unwrap()
}

#[track_caller]
fn same(case: &Value, key: &str, got: f64) {
    let want = case[key].as_f64().unwrap();
    // Both sum a few hundred f64.
    assert!((got - want).abs() < 1e-12, "{}: {key} is {got} and should be {want}", case["name"]);
}

#[test]
fn metrics_of_classes_are_those_of_scikit_learn() {
    let cases = fixture("classes");
    assert_eq!(cases.len(), 6);
    for case in cases {
        let (truth, predicted): (Vec<usize>, Vec<usize>) = (numbers(&case, "truth"), numbers(&case, "predicted"));
        let metrics = Metrics::of_classes(numbers(&case, "classes"), &truth, &predicted);
        same(&case, "accuracy", metrics.get(Measure::Accuracy).unwrap());
        same(&case, "f1", metrics.get(Measure::F1).unwrap());
        same(&case, "matthews", metrics.get(Measure::Matthews).unwrap());
        assert_eq!(metrics.get(Measure::Pearson), None);
        let Metrics::Classes { confusion: Confusion(counts), .. } = metrics else { panic!("classes") };
        assert_eq!(counts, numbers::<Vec<Vec<u64>>>(&case, "confusion"));
    }
}

#[test]
fn correlations_are_those_of_scipy() {
    let cases = fixture("values");
    assert_eq!(cases.len(), 4);
    for case in cases {
        let (truth, predicted): (Vec<f64>, Vec<f64>) = (numbers(&case, "truth"), numbers(&case, "predicted"));
        let metrics = Metrics::of_values(&truth, &predicted);
        same(&case, "pearson", metrics.get(Measure::Pearson).unwrap());
        same(&case, "spearman", metrics.get(Measure::Spearman).unwrap());
    }
}

#[test]
fn undefined_metrics_are_reported_as_such() {
    assert!(pearson(&[1.0, 1.0], &[1.0, 2.0]).is_nan() && spearman(&[], &[]).is_nan());
    let none = Confusion::new(2, &[], &[]);
    assert_eq!((none.accuracy(), none.macro_f1(), none.matthews()), (0.0, 0.0, 0.0));
}
