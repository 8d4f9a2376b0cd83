//! The rows of `system.local`: compressed or not, and the cells in them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use cassy_sstable::{CompressionError, CompressionInfo, SstableName, truncations};

const ONE: &str = "0123456789abcdef0123456789abcdef";
const TWO: &str = "00000000000000000000000000000001";

fn cell(id: &str, at_ms: i64) -> Vec<u8> {
    let id = u128::from_str_radix(id, 16).unwrap().to_be_bytes();
    let position = [0xff; 12];
    [&[0x08, 16][..], &id, &[20], &position, &at_ms.to_be_bytes()].concat()
}

fn name(text: &str) -> SstableName {
    SstableName::parse(text).unwrap()
}

/// As Cassandra writes it.
fn info(class: &str, chunk: u32, most: Option<u32>, length: u64, offsets: &[u64]) -> Vec<u8> {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [text(class), 1u32.to_be_bytes().to_vec(), text("level"), text("fast")].concat();
    bytes.extend(chunk.to_be_bytes());
    bytes.extend(most.iter().flat_map(|most| most.to_be_bytes()));
    bytes.extend(length.to_be_bytes());
    bytes.extend(u32::try_from(offsets.len()).unwrap().to_be_bytes());
    bytes.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    bytes
}

/// Chunks with their checksums, and where each begins.
fn chunks(rows: &[u8], length: usize, compress: impl Fn(&[u8]) -> Vec<u8>) -> (Vec<u8>, Vec<u64>) {
    let (mut data, mut offsets) = (Vec::new(), Vec::new());
    for chunk in rows.chunks(length) {
        offsets.push(data.len() as u64);
        data.extend(compress(chunk));
        data.extend([0xaa; 4]);
    }
    (data, offsets)
}

#[test]
fn the_latest_truncation_of_each_table_is_found() {
    let rows = [b"a row".to_vec(), cell(ONE, 7), cell(TWO, -1), cell(ONE, 1_795_000_000_123), cell(ONE, 9)];
    let found = truncations(&rows.concat());
    assert_eq!((found[ONE], found[TWO], found.len()), (1_795_000_000_123, -1, 2));
    assert!(truncations(b"").is_empty());
    assert!(truncations(&vec![16; 1000]).is_empty());
    let cut = cell(ONE, 7);
    assert!(truncations(&cut[..cut.len() - 1]).is_empty());
}

/// `system.local` of a Cassandra 5.0.9 where two tables were truncated, one of them twice; a restart; then a third one.
#[test]
fn the_rows_of_a_real_cassandra_are_understood() {
    let rows = |name: &str| {
        let read = |component: &str| {
            let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/system-local-5.0.9");
            std::fs::read(format!("{samples}/{name}-{component}.db")).unwrap()
        };
        let info = CompressionInfo::parse(&self::name(name), &read("CompressionInfo")).unwrap();
        truncations(&info.decompress(&read("Data")).unwrap())
    };
    let (one, two, three) = (
        "b52fdd00e70d11f192f0b9f5e7f99afd",
        "b674b910e70d11f192f0b9f5e7f99afd",
        "b72bfb20e70d11f192f0b9f5e7f99afd",
    );
    // What the statements took, by the clock of the client.
    let (once, twice, later) = (
        1_795_418_154_248..=1_795_418_154_505,
        1_795_418_154_552..=1_795_418_155_091,
        1_795_418_251_665..=1_795_418_253_992,
    );
    let before = rows("nb-12-big");
    assert!(twice.contains(&before[one]) && once.contains(&before[two]), "{before:?}");
    assert_eq!(before.get(three), None);
    let after = rows("nb-16-big");
    assert_eq!((after[one], after[two]), (before[one], before[two]));
    assert_eq!(after.get(three), None);
    // What TRUNCATE itself has flushed: its own cell alone.
    let flushed = rows("nb-17-big");
    assert!(flushed.len() == 1 && later.contains(&flushed[three]), "{flushed:?}");
}

#[test]
fn cells_of_other_lengths_are_none() {
    for (at, length) in [(1, 15), (1, 17), (18, 19), (18, 21)] {
        let mut other = cell(ONE, 7);
        other[at] = length;
        assert!(truncations(&other).is_empty(), "{at}: {length}");
    }
}

#[test]
fn rows_are_the_same_however_they_are_kept() {
    let rows: Vec<u8> =
        (0..2000u32).flat_map(|at| if at == 700 { cell(ONE, 7) } else { vec![1, 2, 3] }).collect();
    let length = rows.len() as u64;
    let lz4 = |chunk: &[u8]| lz4_flex::block::compress_prepend_size(chunk);
    // Cells lie across the ends of chunks.
    for chunk in [64, 1000, 1 << 14] {
        let chunk_bytes = u32::try_from(chunk).unwrap();
        let (data, offsets) = chunks(&rows, chunk, lz4);
        for (name, most) in [("nb-1-big", Some(i32::MAX as u32)), ("me-1-big", None)] {
            let info = info("LZ4Compressor", chunk_bytes, most, length, &offsets);
            let info = CompressionInfo::parse(&self::name(name), &info).unwrap();
            assert_eq!(info.decompress(&data).unwrap(), rows, "{name} {chunk}");
        }
        let (data, offsets) = chunks(&rows, chunk, <[u8]>::to_vec);
        for (class, most) in
            [("org.apache.cassandra.io.compress.NoopCompressor", i32::MAX as u32), ("LZ4Compressor", 1)]
        {
            let info = info(class, chunk_bytes, Some(most), length, &offsets);
            let info = CompressionInfo::parse(&name("da-3h5q_1oih_3aqow23nzcs57htqnl-bti"), &info).unwrap();
            assert_eq!(truncations(&info.decompress(&data).unwrap())[ONE], 7, "{class}");
        }
    }
    // Shorter than the length from which chunks are kept, so filled up.
    let (data, offsets) = chunks(&rows[..100], 100, |chunk| [chunk, &[0; 60]].concat());
    let info = info("LZ4Compressor", 200, Some(160), 100, &offsets);
    let info = CompressionInfo::parse(&name("nb-1-big"), &info).unwrap();
    assert_eq!(info.decompress(&data).unwrap(), rows[..100]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let rows = vec![7; 300];
    let (data, offsets) = chunks(&rows, 100, lz4_flex::block::compress_prepend_size);
    let parse = |bytes: &[u8]| CompressionInfo::parse(&name("nb-1-big"), bytes);
    let good = info("LZ4Compressor", 100, Some(i32::MAX as u32), 300, &offsets);
    for end in 0..good.len() {
        assert!(parse(&good[..end]).is_err(), "{end}");
    }
    for (class, is_known) in
        [("ZstdCompressor", false), ("", false), ("x.LZ4Compressor", true), ("LZ4", false)]
    {
        let other = info(class, 100, Some(1 << 20), 300, &offsets);
        assert_eq!(!matches!(parse(&other), Err(CompressionError::Unsupported(_))), is_known, "{class}");
    }
    for (chunk, length, offsets) in [
        (0, 300, &offsets[..]),
        (u32::MAX, 300, &offsets[..1]),
        (100, 301, &offsets),
        (100, 300, &offsets[..2]),
        (100, u64::MAX, &offsets),
        (1, 9 << 20, &offsets),
    ] {
        assert!(
            parse(&info("LZ4Compressor", chunk, Some(1 << 20), length, offsets)).is_err(),
            "{chunk} {length}"
        );
    }
    let info_of = |chunk, most, length, offsets: &[u64]| {
        parse(&info("LZ4Compressor", chunk, Some(most), length, offsets))
    };
    for (what, info) in [
        ("beyond", info_of(100, 1 << 20, 300, &[0, 20, 1 << 40])),
        ("backwards", info_of(100, 1 << 20, 300, &[20, 0, 0])),
        ("longer", info_of(150, 1 << 20, 300, &offsets[..2])),
        ("raw", info_of(100, 1, 300, &offsets)),
    ] {
        let refused = info.unwrap().decompress(&data).unwrap_err().to_string();
        assert!(refused.len() < 200, "{what}: {refused}");
    }
    let info = parse(&good).unwrap();
    for end in 0..data.len() - 1 {
        assert!(info.decompress(&data[..end]).is_err(), "{end}");
    }
}
