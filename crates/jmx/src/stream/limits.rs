//! Limits of the reader. All of them hold before memory is spent: nothing is allocated from a declared length.

/// What a single reply may cost. The wall-clock limit is not here: it belongs to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one reply.
    pub reply_bytes: u64,
    /// Estimated bytes of memory of one decoded reply: charged per value, handle, object part, string byte, and per
    /// class in the hierarchy of every object.
    pub memory_bytes: u64,
    /// Nesting of objects, arrays and class descriptors.
    pub depth: usize,
    /// Classes in one hierarchy.
    pub class_chain: usize,
    /// Bytes of one string as encoded.
    pub string_bytes: u64,
    /// Elements of one array.
    pub array_elements: u32,
    /// Values, and texts at 16 bytes a value, that views of one reply may hand out in all. A graph of
    /// shared references unfolds to far more values than it has; whoever walks it is stopped here.
    pub view_values: u64,
}

impl Default for Limits {
    /// 16 MiB on the wire, 96 MiB in memory: far above any reply of a healthy node (usually below 10 KB).
    fn default() -> Self {
        Self {
            reply_bytes: 16 << 20,
            memory_bytes: 96 << 20,
            depth: 64,
            class_chain: 32,
            string_bytes: 1 << 20,
            array_elements: 1 << 20,
            view_values: 8 << 20,
        }
    }
}
