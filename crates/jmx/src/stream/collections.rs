//! The forms in which lists, sets, maps and open types travel. The receiving JVM would run code of the class; here the
//! shapes are a table. Measured on JDK 17, JDK 25 and Cassandra 4.0-beta2, 5.0.9.

use super::view::{View, ViewError};

/// Wrappers around wrappers that are followed; a circle ends here.
const HOPS: usize = 16;

/// Classes whose items are the values in the annotation of that class, wherever it is in the hierarchy.
const ANNOTATED_LISTS: [&str; 5] = [
    "java.util.ArrayList",
    "java.util.LinkedList",
    "java.util.ArrayDeque",
    "java.util.HashSet",
    "java.util.concurrent.CopyOnWriteArrayList",
];

/// Classes whose pairs are the values in the annotation of that class.
const ANNOTATED_MAPS: [&str; 3] = ["java.util.HashMap", "java.util.Hashtable", "java.util.TreeMap"];

enum Next<'a, T> {
    Done(Vec<T>),
    Inside(View<'a>),
}

impl<'a> View<'a> {
    /// The items of an array or of any JDK or Guava list, set or deque.
    ///
    /// # Errors
    /// [`ViewError::Type`] for anything else.
    pub fn items(self) -> Result<Vec<View<'a>>, ViewError> {
        let mut view = self;
        for _ in 0..HOPS {
            match view.items_step()? {
                Next::Done(items) => return Ok(items),
                Next::Inside(inner) => view = inner,
            }
        }
        Err(ViewError::TooMany)
    }

    /// The pairs of any JDK or Guava map.
    ///
    /// # Errors
    /// [`ViewError::Type`] for anything else.
    pub fn pairs(self) -> Result<Vec<(View<'a>, View<'a>)>, ViewError> {
        let mut view = self;
        for _ in 0..HOPS {
            match view.pairs_step()? {
                Next::Done(pairs) => return Ok(pairs),
                Next::Inside(inner) => view = inner,
            }
        }
        Err(ViewError::TooMany)
    }

    /// The items as strings.
    ///
    /// # Errors
    /// [`ViewError::Type`] when this is no collection, or an item is not a string.
    pub fn strings(self) -> Result<Vec<&'a str>, ViewError> {
        self.items()?.into_iter().map(View::as_str).collect()
    }

    /// The pairs as strings.
    ///
    /// # Errors
    /// [`ViewError::Type`] when this is no map, or a key or value is not a string.
    pub fn string_pairs(self) -> Result<Vec<(&'a str, &'a str)>, ViewError> {
        self.pairs()?.into_iter().map(|(key, value)| Ok((key.as_str()?, value.as_str()?))).collect()
    }

    /// The items as object names.
    ///
    /// # Errors
    /// [`ViewError::Type`] when this is no collection, or an item is no `ObjectName`.
    pub fn object_names(self) -> Result<Vec<&'a str>, ViewError> {
        self.items()?.into_iter().map(View::as_object_name).collect()
    }

    /// Names and values of a `javax.management.AttributeList`.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn attributes(self) -> Result<Vec<(&'a str, View<'a>)>, ViewError> {
        self.items()?
            .into_iter()
            .map(|item| Ok((item.field("name")?.as_str()?, item.field("value")?)))
            .collect()
    }

    /// The value under a key of a `CompositeData`.
    ///
    /// # Errors
    /// [`ViewError::Missing`] when the row has no such key.
    pub fn column(self, key: &str) -> Result<View<'a>, ViewError> {
        if !self.is_a("javax.management.openmbean.CompositeDataSupport") {
            return Err(self.wrong("composite data"));
        }
        let contents = self.field("contents")?.pairs()?;
        let found = contents.into_iter().find(|(name, _)| name.as_str() == Ok(key));
        found.map(|(_, value)| value).ok_or_else(|| self.missing(key))
    }

    /// The rows of a `TabularData`, each a `CompositeData`.
    ///
    /// # Errors
    /// [`ViewError::Type`].
    pub fn rows(self) -> Result<Vec<View<'a>>, ViewError> {
        if !self.is_a("javax.management.openmbean.TabularDataSupport") {
            return Err(self.wrong("tabular data"));
        }
        let pairs = self.field("dataMap")?.pairs()?;
        Ok(pairs.into_iter().map(|(_, row)| row).collect())
    }

    fn items_step(self) -> Result<Next<'a, View<'a>>, ViewError> {
        const EXPECTED: &str = "a list or set";
        if let Some(elements) = self.elements()? {
            return Ok(Next::Done(elements));
        }
        let Some(class) = self.class_name() else { return Err(self.wrong(EXPECTED)) };
        if let Some(field) = field_with_items(class) {
            return self.field(field).map(Next::Inside);
        }
        match class {
            "java.util.Collections$EmptyList" | "java.util.Collections$EmptySet" => {
                return Ok(Next::Done(Vec::new()));
            }
            "java.util.Collections$SingletonList" | "java.util.Collections$SingletonSet" => {
                return Ok(Next::Done(vec![self.field("element")?]));
            }
            "java.util.Collections$SetFromMap" => {
                let pairs = self.field("m")?.pairs()?;
                return Ok(Next::Done(pairs.into_iter().map(|(key, _)| key).collect()));
            }
            "java.util.CollSer" if matches!(self.tag()?, 1 | 2 | 4) => {
                return Ok(Next::Done(self.annotated_values(class)?.unwrap_or_default()));
            }
            "java.util.TreeSet" => {
                let mut items = self.annotated_values(class)?.unwrap_or_default();
                if items.is_empty() {
                    return Err(self.wrong("a tree set with a comparator"));
                }
                items.remove(0);
                return Ok(Next::Done(items));
            }
            _ => {}
        }
        if self.is_a("java.util.Collections$UnmodifiableCollection")
            || self.is_a("java.util.Collections$SynchronizedCollection")
        {
            return self.field("c").map(Next::Inside);
        }
        if self.is_a("java.util.Vector") {
            return self.vector();
        }
        for list in ANNOTATED_LISTS {
            if let Some(items) = self.annotated_values(list)? {
                return Ok(Next::Done(items));
            }
        }
        Err(self.wrong(EXPECTED))
    }

    fn vector(self) -> Result<Next<'a, View<'a>>, ViewError> {
        let count = usize::try_from(self.field("elementCount")?.as_i64()?)
            .map_err(|_negative| self.wrong("a vector"))?;
        let mut items = self.field("elementData")?.items()?;
        if count > items.len() {
            return Err(self.wrong("a vector"));
        }
        items.truncate(count);
        Ok(Next::Done(items))
    }

    fn pairs_step(self) -> Result<Next<'a, (View<'a>, View<'a>)>, ViewError> {
        const EXPECTED: &str = "a map";
        let Some(class) = self.class_name() else { return Err(self.wrong(EXPECTED)) };
        match class {
            "java.util.Collections$EmptyMap" => return Ok(Next::Done(Vec::new())),
            "java.util.Collections$SingletonMap" => {
                return Ok(Next::Done(vec![(self.field("k")?, self.field("v")?)]));
            }
            "java.util.Collections$UnmodifiableMap" | "java.util.Collections$SynchronizedMap" => {
                return self.field("m").map(Next::Inside);
            }
            "java.util.CollSer" if self.tag()? == 3 => {
                return self.paired(&self.annotated_values(class)?.unwrap_or_default());
            }
            "java.util.concurrent.ConcurrentHashMap" => {
                // The pairs, then two nulls.
                let mut values = self.annotated_values(class)?.unwrap_or_default();
                let end = values.len().saturating_sub(2);
                if !values.split_off(end).iter().all(|value| value.is_null()) {
                    return Err(self.wrong(EXPECTED));
                }
                return self.paired(&values);
            }
            _ => {}
        }
        if self.is_a("com.google.common.collect.ImmutableMap$SerializedForm") {
            let (keys, values) = (self.field("keys")?.items()?, self.field("values")?.items()?);
            if keys.len() != values.len() {
                return Err(self.wrong(EXPECTED));
            }
            return Ok(Next::Done(keys.into_iter().zip(values).collect()));
        }
        for map in ANNOTATED_MAPS {
            if let Some(values) = self.annotated_values(map)? {
                return self.paired(&values);
            }
        }
        Err(self.wrong(EXPECTED))
    }

    fn paired(self, values: &[View<'a>]) -> Result<Next<'a, (View<'a>, View<'a>)>, ViewError> {
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.wrong("a map with a value for every key"));
        }
        Ok(Next::Done(pairs.iter().map(|[key, value]| (*key, *value)).collect()))
    }

    fn tag(self) -> Result<i64, ViewError> {
        Ok(self.field("tag")?.as_i64()? & 0xff)
    }
}

/// Classes that keep their items in another collection or array.
fn field_with_items(class: &str) -> Option<&'static str> {
    match class {
        "java.util.Arrays$ArrayList" => Some("a"),
        "java.util.concurrent.CopyOnWriteArraySet" => Some("al"),
        "com.google.common.collect.ImmutableList$SerializedForm"
        | "com.google.common.collect.ImmutableSet$SerializedForm"
        | "com.google.common.collect.ImmutableSortedSet$SerializedForm" => Some("elements"),
        "com.google.common.collect.ImmutableAsList$SerializedForm" => Some("collection"),
        _ => None,
    }
}
