//! Reading rows that anybody may have written, as Java Cassy's tables are open to all: a value of another type than the
//! column's, which SQLite keeps, costs its own row something, and no other row anything.

use sqlx::Row;
use sqlx::any::AnyRow;

/// A column as the query calls it, and as the answer does.
pub(crate) type Column<'a> = (&'a str, &'a str);

const ODD: &str = "odd_columns";

/// What to select, so that [`Lenient`] can read it.
pub(crate) fn selection(texts: &[Column<'_>], numbers: &[Column<'_>]) -> String {
    let text = |(column, name): &Column<'_>| format!("CAST({column} AS BLOB) AS {name}");
    let number = |(column, name): &Column<'_>| {
        format!("CASE typeof({column}) WHEN 'integer' THEN {column} END AS {name}")
    };
    let odd = |(column, name): &Column<'_>, right: &str| {
        format!("CASE WHEN typeof({column}) IN ('{right}', 'null') THEN '' ELSE ' {name}' END")
    };
    let odd: Vec<String> = texts
        .iter()
        .map(|column| odd(column, "text"))
        .chain(numbers.iter().map(|column| odd(column, "integer")))
        .collect();
    let odd = format!("{} AS {ODD}", odd.join(" || "));
    texts.iter().map(text).chain(numbers.iter().map(number)).chain([odd]).collect::<Vec<_>>().join(", ")
}

/// A row of a [`selection`].
pub(crate) struct Lenient<'r> {
    row: &'r AnyRow,
    odd: Vec<String>,
}

impl<'r> Lenient<'r> {
    pub(crate) fn of(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let odd: String = row.try_get(ODD)?;
        Ok(Self { row, odd: odd.split_whitespace().map(str::to_owned).collect() })
    }

    /// Any value as a text; what is not UTF-8 in it is replaced.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, sqlx::Error> {
        let bytes: Option<Vec<u8>> = self.row.try_get(name)?;
        let text = bytes.map(String::from_utf8).transpose();
        Ok(text.unwrap_or_else(|error| {
            self.odd.push(name.to_owned());
            Some(String::from_utf8_lossy(error.as_bytes()).into_owned())
        }))
    }

    /// `None` for anything but a whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
        self.row.try_get(name)
    }

    /// The columns that hold what no version of Cassy has written, after all have been read.
    pub(crate) fn odd(mut self) -> Vec<String> {
        self.odd.sort_unstable();
        self.odd.dedup();
        self.odd
    }
}
