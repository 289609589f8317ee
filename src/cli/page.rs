//! Pages that need nothing else: their data, their style and what their scripts share are put into one file.

use serde_json::Value;

const STYLE: &str = include_str!("page/style.css");
const PARTS: &str = include_str!("page/parts.js");

/// A page with its data; it has a place for each of the three.
pub fn page(template: &str, data: &Value) -> String {
    // In a script `</script` would end it, and `<!--` with `<script` would hide its end. In JSON `<` is in strings only.
    let data = data.to_string().replace('<', "\\u003c");
    let page = template.replacen("/* STYLE */\n", STYLE, 1).replacen("/* PARTS */\n", PARTS, 1);
    page.replacen("\"DATA\"", &data, 1)
}
