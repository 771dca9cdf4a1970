//! Rule files over seeded garbage.

#[path = "../../tests/hostile/garbage.rs"]
mod garbage;

use garbage::over_text;

#[test]
fn no_rule_file_makes_its_reader_panic() {
    let own = include_str!("../rules/backlot.yml");
    let anchors = "a: &a [*a, *a]\ngroups: [{name: x, interval: 1h30m, rules: [{alert: A, expr: 'up == 0', for: 99999999999w, labels: {a: '{{ $x }}'}}]}]";
    over_text(1_500, &[own, anchors], |text| drop(backlot_alerts::rules::parse(text)));
}
