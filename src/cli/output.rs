//! Prints results: tables for people, JSON for programs.
//!
//! **Invariant:** what is printed fits 80 columns where nobody says how wide a line is, has no
//! colours there, and a reader that goes away is no failure.

use std::io::{self, IsTerminal, Write};

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, TableStyle,
};
use serde::Serialize;

use super::exit::Failure;
use crate::{config::Config, domain::doctor::Verdict};

/// Columns where the output is not a terminal.
const WIDTH: u16 = 80;

/// Prints one JSON document.
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Print(error.into()))?;
    line(&text)
}

/// Prints one line, or several.
pub fn line(text: &str) -> Result<(), Failure> {
    is_read(writeln!(io::stdout(), "{text}")).map(drop)
}

/// Prints text for people, in as many lines as its width takes.
pub fn paragraph(text: &str) -> Result<(), Failure> {
    let mut table = plain_table();
    table.add_row([text]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    line(&table.trim_fmt())
}

/// Prints named values, one below the other; what has none is left out.
pub fn fields<'f>(fields: impl IntoIterator<Item = (&'f str, String)>) -> Result<(), Failure> {
    let mut table = plain_table();
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([name, &value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    line(&table.trim_fmt())
}

/// Prints a piece of text at once, the rest of a line too; returns whether anybody reads on.
pub fn piece(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    is_read(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn is_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Print(error)),
    }
}

/// Without lines, as wide as the terminal.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        table.force_no_tty().set_width(WIDTH);
    }
    table
}

/// A table that is printed with [`Rows::print`].
pub struct Rows {
    table: Table,
    colour: bool,
}

impl Rows {
    pub fn new(config: &Config, columns: &[&str]) -> Self {
        let colour = config.colour && io::stdout().is_terminal();
        let mut table = plain_table();
        let header = |name: &&str| {
            let cell = Cell::new(name);
            if colour { cell.add_attribute(Attribute::Bold) } else { cell }
        };
        table.set_header(columns.iter().map(header));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, colour }
    }

    /// Columns that are never broken into lines: ids, times.
    pub fn whole(mut self, columns: &[usize]) -> Self {
        for index in columns {
            if let Some(column) = self.table.column_mut(*index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        self
    }

    pub fn right(mut self, columns: &[usize]) -> Self {
        for index in columns {
            if let Some(column) = self.table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    pub fn add(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.table.add_row(cells.into_iter().collect::<Vec<_>>());
    }

    /// A state, in its colour.
    pub fn state(&self, word: &str) -> Cell {
        let cell = Cell::new(word);
        if !self.colour {
            return cell;
        }
        match word {
            "success" => cell.fg(Color::Green),
            "failed" => cell.fg(Color::Red),
            "running" => cell.fg(Color::Cyan),
            "cancelled" | "skipped" => cell.fg(Color::Yellow),
            _ => cell,
        }
    }

    /// How bad something is, in its colour.
    pub fn verdict(&self, verdict: Verdict) -> Cell {
        let cell = Cell::new(verdict.as_str());
        match verdict {
            _ if !self.colour => cell,
            Verdict::Ok => cell.fg(Color::Green),
            Verdict::Warning => cell.fg(Color::Yellow),
            Verdict::Problem => cell.fg(Color::Red),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn text(&self) -> String {
        self.table.trim_fmt()
    }

    pub fn print(&self) -> Result<(), Failure> {
        line(&self.text())
    }
}
