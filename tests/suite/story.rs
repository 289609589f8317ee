use wgpt::data::story::{self, TALES};

#[test]
fn unambiguous() {
    assert_eq!(TALES.ambiguity(), None);
}

#[test]
fn look() {
    let e = story::entropy();
    println!("{e:?} {}", e.nats_per_character());
    for s in 0..12 { print!("{}", story::story(s)); }
    let t = std::time::Instant::now();
    for s in 0..2000 { let d = TALES.derivations(&story::story(s)); assert_eq!(d.len(), 1); }
    println!("{:?}", t.elapsed());
}
