//! The page for programs that follow events on the broker, with one in each of three languages. The programs are files that the tests
//! run as they stand.

use crate::page_assets::escape_html;

const PAGE: &str = include_str!("page.html");
/// The programs by their places in the page.
const PROGRAMS: [(&str, &str); 3] = [
    ("{python}", include_str!("follow.py")),
    ("{javascript}", include_str!("follow.mjs")),
    ("{rust}", include_str!("follow.rs")),
];

/// The page.
pub(super) fn render_programs_page() -> String {
    PROGRAMS.iter().fold(PAGE.to_owned(), |page, (place, program)| {
        page.replacen(place, escape_html(program).trim_end(), 1)
    })
}
