//! Labelled files: written files are read back in all three formats, and errors name the line.

use crate::cli::{Place, has};
use wgpt::data::labelled::{Column, Example, Form, Task, read, write};

fn example(line: usize, texts: &[&str], choices: &[&str], label: Option<&str>) -> Example {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    Example { line, texts: owned(texts), choices: owned(choices), label: label.map(str::to_string), rendered: false }
}

/// What `read` makes of a file.
fn read_text(place: &Place, name: &str, form: &Form, text: impl AsRef<[u8]>) -> wgpt::error::Result<Vec<Example>> {
    read(&place.write(name, text), form, true)
}

#[track_caller]
fn refused(place: &Place, name: &str, form: &Form, text: impl AsRef<[u8]>, words: &[&str]) {
    let error = read_text(place, name, form, text).unwrap_err().to_string();
    has(&error, words);
    has(&error, &[name]);
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn written_files_are_read_back() {
    let place = Place::new();
    let rows = [
        (Task::Classify, vec![example(2, &["He said \"no\", and é."], &[], Some("sad"))]),
        (Task::Entail, vec![example(2, &["a", " b "], &[], Some("1")), example(3, &["c", "d"], &[], Some("2.5"))]),
        (
            Task::Choose,
            vec![example(2, &["a"], &["b", "c"], Some("1")), example(3, &["d"], &["e", "f", "g"], Some("2"))],
        ),
    ];
    for (task, examples) in rows {
        for name in ["x.jsonl", "x.csv", "x.tsv"] {
            write(&place.path(name), &task.form(), &examples).unwrap();
            let mut got = read(&place.path(name), &task.form(), true).unwrap();
            // Objects have no header.
            let header = usize::from(name != "x.jsonl");
            got.iter_mut().for_each(|example| example.line += 1 - header);
            assert_eq!(got, examples, "{name}");
        }
    }
    let lines = [example(1, &["two\nlines\tand a tab"], &[], Some("a"))];
    let form = Task::Classify.form();
    write(&place.path("x.csv"), &form, &lines).unwrap();
    assert_eq!(read(&place.path("x.csv"), &form, true).unwrap()[0].texts, lines[0].texts);
    let error = write(&place.path("x.tsv"), &form, &lines).unwrap_err().to_string();
    has(&error, &["x.tsv", "tabs"]);
}

#[test]
fn columns_are_found_by_their_names() {
    let place = Place::new();
    let mut form = Task::Entail.form();
    form.texts[0].name = "sentence1".into();
    form.texts[1].name = "sentence2".into();
    form.label.name = "gold".into();
    let want = vec![example(2, &["a", "b"], &[], Some("x"))];
    for (name, text) in [
        ("a.csv", "\u{feff}id, gold ,sentence2,sentence1\n7,x,b,a\n"),
        ("a.tsv", "sentence1\tsentence2\tgold\r\na\tb\tx\r\n"),
        ("a.jsonl", "\n{\"sentence2\": \"b\", \"more\": [1], \"gold\": \"x\", \"sentence1\": \"a\"}\n\n"),
    ] {
        assert_eq!(read_text(&place, name, &form, text).unwrap(), want, "{name}");
    }
    // Quotes are nothing special between tabs.
    let form = Task::Classify.form();
    let quoted = read_text(&place, "a.tsv", &form, "text\tlabel\n\"so\tx\n").unwrap();
    assert_eq!(quoted, [example(2, &["\"so"], &[], Some("x"))]);
    let labels: Vec<_> =
        read_text(&place, "a.jsonl", &form, "{\"text\":\"a\",\"label\":3}\n{\"text\":\"b\",\"label\":true}")
            .unwrap()
            .into_iter()
            .map(|example| example.label.unwrap())
            .collect();
    assert_eq!(labels, ["3", "true"]);
}

#[test]
fn labels_may_be_left_out_where_they_are_not_needed() {
    let place = Place::new();
    let form = Task::Classify.form();
    for (name, text) in
        [("a.csv", "text,other\na,b\n"), ("b.csv", "text,label\na,\n"), ("a.jsonl", "{\"text\": \"a\"}")]
    {
        let path = place.write(name, text);
        assert_eq!(read(&path, &form, false).unwrap()[0].label, None, "{name}");
        has(&read(&path, &form, true).unwrap_err().to_string(), &["label"]);
    }
    let path = place.write("c.csv", "text,label\na,x\n");
    assert_eq!(read(&path, &form, false).unwrap()[0].label.as_deref(), Some("x"));
}

#[test]
fn choices_come_as_a_list_or_in_numbered_columns() {
    let place = Place::new();
    let form = Task::Choose.form();
    let want = |line| [example(line, &["a"], &["b", "c"], Some("1"))];
    let rows = [
        ("a.jsonl", "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"label\":1}", 1),
        ("b.jsonl", "{\"context\":\"a\",\"choices0\":\"b\",\"choices1\":\"c\",\"label\":\"1\"}", 1),
        ("a.csv", "context,choices0,choices1,label\na,b,c,1\n", 2),
        // The label is the column's number.
        ("b.csv", "label,choices2,choices1,context\n2,c,b,a\n", 2),
        // A row may have fewer choices than there are columns.
        ("c.csv", "label,choices0,choices1,choices2,context\n1,b,c,,a\n", 2),
    ];
    for (name, text, line) in rows {
        assert_eq!(read_text(&place, name, &form, text).unwrap(), want(line), "{name}");
    }
    let mut form = form;
    form.choices = Some(Column { option: "choices", name: "ending".into() });
    form.texts.push(Column::new("question"));
    let with_question =
        read_text(&place, "q.csv", &form, "context,question,ending0,ending1,label\na,q,b,c,0\n").unwrap();
    assert_eq!(with_question, [example(2, &["a", "q"], &["b", "c"], Some("0"))]);
    assert_eq!(with_question[0].right(), Some(0));
}

#[test]
fn mistakes_are_reported_with_their_line() {
    let place = Place::new();
    let (classify, choose) = (Task::Classify.form(), Task::Choose.form());
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.csv", b"text,label\na,x\n\nb,y,z\n", &["line 4", "3 fields", "2"]),
        ("a.csv", b"text,label\r\na,x\r\nb,y,z\r\n", &["line 3", "3 fields"]),
        ("a.csv", b"text,label\n\"a\nb\",x\n,y\n", &["line 4", "`text`", "empty"]),
        ("a.csv", b"text,label\na,x\nb, \n", &["line 3", "`label`", "empty"]),
        ("a.csv", b"body,label\na,x\n", &["no column `text`", "body, label", "--text"]),
        ("a.tsv", b"text,label\na,x\n", &["no column `text`"]),
        ("a.csv", b"text,label,text\na,x,b\n", &["two columns called `text`"]),
        ("a.csv", b"text,label\n", &["no examples"]),
        ("a.csv", b"", &["no column `text`"]),
        ("a.jsonl", b"", &["no examples"]),
        ("a.csv", b"text,label\na,x\nb\xff,y\n", &["line 3", "UTF-8"]),
        (
            "a.jsonl",
            b"{\"text\": \"a\", \"label\": 1}\n{\"text\": 5, \"label\": 1}\n",
            &["line 2", "`text`", "not a text"],
        ),
        ("a.jsonl", b"{\"text\": \"a\", \"label\": 1}\nnonsense\n", &["line 2", "JSON"]),
        ("a.jsonl", b"[1]\n", &["line 1", "JSON"]),
        ("a.jsonl", b"{\"text\": \"a\"}\n", &["line 1", "no `label`", "--label"]),
        ("a.jsonl", b"{\"label\": \"a\"}\n", &["line 1", "no `text`", "--text"]),
        ("a.jsonl", b"{\"text\": \"a\", \"label\": []}\n", &["line 1", "`label`"]),
        ("a.jsonl", b"{\"text\": \" \", \"label\": 1}\n", &["line 1", "`text`", "empty"]),
        ("a.txt", b"a", &[".jsonl", ".csv", ".tsv"]),
    ];
    for (name, text, words) in cases {
        refused(&place, name, &classify, text, words);
    }
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":[\"b\"],\"label\":0}", &["line 1", "two choices"]),
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":[\"b\",\"\"],\"label\":0}", &["line 1", "`choices`", "empty"]),
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":[\"b\",3],\"label\":0}", &["line 1", "`choices`", "list"]),
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":\"b\",\"label\":0}", &["line 1", "`choices`", "list"]),
        ("a.jsonl", b"{\"context\":\"a\",\"label\":0}", &["line 1", "no `choices`", "--choices"]),
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"label\":2}", &["line 1", "`2`", "0 to 1"]),
        ("a.jsonl", b"{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"label\":\"c\"}", &["line 1", "`c`"]),
        ("a.csv", b"context,choices1,choices2,label\na,b,c,0\n", &["line 2", "`0`", "1 to 2"]),
        ("a.csv", b"context,choices0,choices1,choices2,label\na,b,,c,0\n", &["line 2", "`choices1`", "empty"]),
        ("a.csv", b"context,endings,label\na,b,0\n", &["choices0", "--choices"]),
    ];
    for (name, text, words) in cases {
        refused(&place, name, &choose, text, words);
    }
    has(&read(&place.path("nowhere.csv"), &classify, true).unwrap_err().to_string(), &["nowhere.csv"]);
}
