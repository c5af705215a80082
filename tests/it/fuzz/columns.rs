//! The columns that hold JSON: dependencies, headers, env.

use proptest::prelude::*;

use super::{any_bytes, cases, damaged, pieces, promises};

const LIST: &[&str] = &[
    "[",
    "]",
    "[\"a\"",
    "\"a\"",
    "\"b\"",
    ",\"b\"",
    "\"\\u0061\"",
    "\"c\"",
    ",",
    "null",
    " ",
    "\"",
    "{",
    "}",
    "1",
    "\\",
    "\u{feff}",
];
const OBJECT: &[&str] = &[
    "{",
    "}",
    "{\"A\":\"x\"",
    ",\"B\":\"y\"",
    "\"A\"",
    ":",
    "\"Host\"",
    "\"a b\"",
    "\"\"",
    "1e9",
    "true",
    "null",
    ",",
    "\"x=\"",
    "\"\\u0000\"",
    "\"\\r\\n\"",
    "[",
    "]",
    " ",
    "\"ä\"",
    "\\",
    "\"A\":1",
];

fn list() -> impl Strategy<Value = String> {
    prop_oneof![pieces(LIST, 12), damaged(r#"["a", "b", "\u0063", "a"]"#), any_bytes()]
}

fn object() -> impl Strategy<Value = String> {
    let good = r#"{"A": "x", "X-B": 1.5, "Content-Type": "text/plain; q=1", "C": null}"#;
    prop_oneof![pieces(OBJECT, 16), damaged(good), any_bytes()]
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn dependencies_that_are_accepted_name_steps_and_make_no_circle(a in list(), b in list()) {
        promises::dependencies(&[&a, &b, ""]);
    }

    #[test]
    fn headers_that_are_accepted_are_those_that_are_sent(text in object()) {
        promises::headers(&text);
    }

    #[test]
    fn variables_that_are_accepted_can_be_given_to_a_process(text in object()) {
        promises::variables(&text);
    }
}
