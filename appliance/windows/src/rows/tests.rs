use proptest::prelude::*;

use super::*;

fn packer(dir: &std::path::Path) -> (Packer, Arc<Tables>) {
    let tables = Arc::new(Tables::create(dir).unwrap());
    (Packer::new(Arc::clone(&tables)).unwrap(), tables)
}

fn line(number: usize) -> String {
    let (job, span) = (number / 100 * 7_919 + 1_000_000_000_000, number * 104_729 + 1_000_000_000_000);
    format!(
        r#"{{"level":"info","job":"01K9B4{job:020}","span_id":"{span:016x}","body":"step {} of 50 took {}.{:02} ms","attributes":{{"job.id":"01K9B4{job:020}"}}}}"#,
        number % 50,
        number % 97,
        number % 100,
    )
}

#[test]
fn lines_that_are_alike_become_short_rows_that_read_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut packer, tables) = packer(dir.path());
    let rows: Vec<_> = (0..1000).map(|number| packer.pack(line(number).as_bytes())).collect();
    let needed_bytes = packer.save().unwrap();
    let again = Tables::read(dir.path(), needed_bytes).unwrap();
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(unpack(row, &tables).unwrap(), line(number).into_bytes());
        assert_eq!(unpack(row, &again).unwrap(), line(number).into_bytes());
    }
    let bytes: usize = rows[500..].iter().map(Vec::len).sum();
    assert!(bytes < 500 * 25, "{} bytes a row of {}", bytes / 500, line(999).len());
}

#[test]
fn a_second_writer_of_the_same_tables_goes_on_where_the_first_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, tables) = packer(dir.path());
    let mut rows: Vec<_> = (0..3).map(|number| first.pack(line(number).as_bytes())).collect();
    first.save().unwrap();
    let other = |number: usize| format!(r#"{{"other":{number}}}"#);
    let mut others: Vec<_> = (0..3).map(|number| first.pack(other(number).as_bytes())).collect();
    drop(first); // before it saved what the others need
    let mut second = Packer::new(Arc::clone(&tables)).unwrap();
    rows.push(second.pack(line(3).as_bytes()));
    others.push(second.pack(other(3).as_bytes()));
    let needed_bytes = second.save().unwrap();
    for tables in [&tables, &Arc::new(Tables::read(dir.path(), needed_bytes).unwrap())] {
        assert_eq!(unpack(&rows[3], tables).unwrap(), line(3).into_bytes());
        assert_eq!(unpack(&others[3], tables).unwrap(), other(3).into_bytes());
    }
}

#[test]
fn a_writer_goes_on_after_a_torn_frame_and_what_a_commit_needs_is_told_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (mut packer, _) = packer(dir.path());
    let first = [packer.pack(line(1).as_bytes()), packer.pack(line(2).as_bytes())];
    let first_bytes = packer.save().unwrap();
    let other = |number: usize| format!(r#"{{"other":{number}}}"#);
    let _ = [packer.pack(other(1).as_bytes()), packer.pack(other(2).as_bytes())];
    let second_bytes = packer.save().unwrap();
    assert!(first_bytes < second_bytes);
    drop(packer);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(Tables::read(dir.path(), second_bytes), Err((_, true))));

    let tables = Arc::new(Tables::read(dir.path(), first_bytes).unwrap());
    let mut packer = Packer::new(Arc::clone(&tables)).unwrap();
    assert_eq!(packer.pack(line(2).as_bytes()).len(), first[1].len(), "it knows what it knew");
    let third: Vec<_> = (0..3).map(|number| packer.pack(format!(r#"{{"third":{number}}}"#).as_bytes())).collect();
    let third_bytes = packer.save().unwrap();
    let again = Tables::read(dir.path(), third_bytes).unwrap();
    assert_eq!(unpack(&third[2], &again).unwrap(), br#"{"third":2}"#);
    assert_eq!(unpack(&first[1], &again).unwrap(), line(2).into_bytes());

    let mut damaged = std::fs::read(&path).unwrap();
    damaged[20] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert!(matches!(Tables::read(dir.path(), third_bytes), Err((_, true))));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Tables::read(dir.path(), 0), Err((_, true))));
}

#[test]
fn tables_are_bounded_and_lines_of_a_shape_that_is_known_late_still_lose_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut packer, tables) = packer(dir.path());
    let word = |number: usize| -> String {
        (0..12).map(|digit| char::from(b'g' + u8::try_from(number >> (2 * digit) & 3).unwrap())).collect()
    };
    let of = |number: usize| format!(r#"{{"user":"{}","text":"{}"}}"#, word(number), "x".repeat(200));
    for number in 0..20_000 {
        for _ in 0..2 {
            let row = packer.pack(of(number).as_bytes());
            assert_eq!(unpack(&row, &tables).unwrap(), of(number).into_bytes());
        }
    }
    assert!(packer.save().unwrap() < tables::BYTES_MAX as u64);
    let late = |number: usize| format!(r#"{{"late":"{}","n":{number}}}"#, word(number));
    let rows: Vec<_> = (30_000..30_010).map(|number| packer.pack(late(number).as_bytes())).collect();
    assert!(rows[9][0] > 0 && rows[9].len() < 20, "{:?}", rows[9]);
    let ids = |number: usize| format!(r#"{{"id":"{:016x}{number:016x}"}}"#, number * 104_729 + (1 << 50));
    for number in 0..300_000 {
        let rows = [packer.pack(ids(number).as_bytes()), packer.pack(ids(number).as_bytes())];
        assert_eq!(unpack(&rows[number % 2], &tables).unwrap(), ids(number).into_bytes());
    }
    assert!(packer.save().unwrap() < 2 * tables::BYTES_MAX as u64);
}

proptest! {
    #[test]
    fn whatever_the_bytes_are_they_come_back_the_same(
        texts in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            r#"\{"[a-c]":("[a-z0-9 \\\\"é]{0,60}"|[0-9.]{1,30}),"id":"[0-9a-f]{4,40}"\}"#.prop_map(String::into_bytes),
            "[a-fA-F0-9x]{0,60}".prop_map(String::into_bytes),
            Just(b"the same 1 line of 0123456789abcdef0 and 0123456789abcdef0".to_vec()),
        ], 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut packer, tables) = packer(dir.path());
        let mut rows = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            rows.push(packer.pack(text));
            if number == cut.index(texts.len()) {
                packer.save().unwrap();
            }
        }
        let needed_bytes = packer.save().unwrap();
        let again = Tables::read(dir.path(), needed_bytes).unwrap();
        for (row, text) in rows.iter().zip(&texts) {
            prop_assert_eq!(&unpack(row, &tables).unwrap(), text);
            prop_assert_eq!(&unpack(row, &again).unwrap(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_tables_and_no_rows_are_told(bytes in prop::collection::vec(any::<u8>(), 0..300), header: bool) {
        fuzz_rows(&bytes);
        if header {
            fuzz_rows(&[b"BLROWS01".as_slice(), &bytes].concat());
        }
    }
}
