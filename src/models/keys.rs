//! Typed access to the keys of a JSON object as found in a model folder.

use serde_json::{Map, Value};

use crate::files::one_line;

/// A value, or an error message that names its key.
pub type Found<T> = std::result::Result<T, String>;

/// How a key of a file that another program wrote is treated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Use {
    /// It is read here, and obeyed or refused by name.
    Obeyed,
    /// It is read by another part of the program, or there where it matters.
    Elsewhere,
    /// Nothing that is computed here depends on it, whatever it says.
    Harmless,
    /// It asks for something that is not implemented, unless it has one of these values; nor do false, and an empty text, list
    /// or object ask for anything. It is told by name.
    Warned(&'static [f64]),
}

/// The keys that a program must not pass over silently: those that ask for features that are not implemented, and those that
/// no table has, in alphabetical order.
pub fn unheeded(keys: &Keys, tables: &[&[(&str, Use)]]) -> Vec<String> {
    let asks = |value: &Value, neutral: &[f64]| match value {
        Value::Number(number) => !number.as_f64().is_some_and(|number| neutral.contains(&number)),
        Value::Bool(flag) => *flag,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Null => false,
    };
    let is_unheeded = |key: &str, value: &Value| {
        let found = tables.iter().flat_map(|table| table.iter()).find(|(known, _)| *known == key);
        match found.map(|(_, what)| what) {
            Some(Use::Obeyed | Use::Elsewhere | Use::Harmless) => false,
            Some(Use::Warned(neutral)) => asks(value, neutral),
            None => !value.is_null(),
        }
    };
    let found = keys.0.iter().filter(|(key, value)| is_unheeded(key, value)).map(|(key, _)| one_line(key));
    let mut found: Vec<String> = found.collect();
    found.sort();
    found
}

/// The keys of an object; every error names its key. A null counts as absent.
pub struct Keys(Map<String, Value>);

impl Keys {
    /// Parses a JSON object; `expected` is the file's usual name.
    pub fn parse(text: &str, expected: &str) -> Found<Keys> {
        serde_json::from_str(text)
            .map(Keys)
            .map_err(|error| format!("not a JSON object ({}); is this a {expected}?", one_line(&error.to_string())))
    }

    pub fn of(keys: Map<String, Value>) -> Keys {
        Keys(keys)
    }

    /// All keys with their values.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    /// Whether the key is there, be it with a null.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The keys of an object inside.
    pub fn object(&self, key: &str) -> Found<Option<Keys>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(Keys(keys.clone()))),
            Some(value) => Err(format!("{key} is {}, not an object", shown(value))),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A whole number in `range`.
    pub fn whole(&self, key: &str, range: std::ops::RangeInclusive<usize>) -> Found<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
            let (least, most) = range.into_inner();
            format!("{key} is {}, but must be a whole number from {least} to {most}", shown(value))
        })
    }

    /// Reads sizes that a configuration of `model` needs: of a key, a whole number from 1 to the most that it may be.
    pub fn needed(&self, model: &str) -> impl Fn(&str, usize) -> Found<usize> {
        move |key, most| {
            let missing = || format!("the key {key} is missing; a {model} configuration needs it");
            self.whole(key, 1..=most)?.ok_or_else(missing)
        }
    }

    pub fn number(&self, key: &str) -> Found<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .as_f64()
            .map(|number| Some(number as f32))
            .ok_or_else(|| format!("{key} is {}, not a number", shown(value)))
    }

    pub fn flag(&self, key: &str) -> Found<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("{key} is {}, not true or false", shown(value)))
    }

    /// Token ids: a number or a list of numbers. A number that can never be an id, such as -1, names no token.
    pub fn tokens(&self, key: &str) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => vec![],
        }
    }

    /// Refuses a key whose value is not the only one that is implemented; absent is fine.
    pub fn only(&self, key: &str, supported: &Value) -> Found<()> {
        match self.get(key) {
            Some(value) if value != supported && (value.as_f64().is_none() || value.as_f64() != supported.as_f64()) => {
                Err(format!("{key} is {}, but only {supported} is supported here", shown(value)))
            }
            _ => Ok(()),
        }
    }
}

/// A JSON value as text for a message.
pub fn shown(value: &Value) -> String {
    one_line(&value.to_string())
}
