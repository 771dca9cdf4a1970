"""Log lines in ClickHouse (chDB), in SQLite with FTS5, and as files under ripgrep: how fast in, how much room, how soon an answer.

Called by the benchmark with the file of lines and an empty folder; writes one JSON object. Each store keeps the whole line, and
beside it what its questions need.
"""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time

import chdb
from chdb import session

TIMES = 10
WORD, PHRASE, HOST = "zyzzyva", "out of memory", "gpu-07"
QUESTIONS = ("newest 100 of a host and a level", "newest 100 with a phrase", "a rare word", "histogram of all by level")


def folder_bytes(folder):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def cpu_s():
    return sum(
        of.ru_utime + of.ru_stime
        for of in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def p50_ms(ask):
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return sorted(took)[TIMES // 2] * 1e3


def clickhouse(lines, folder, raw_bytes):
    at = session.Session(folder)
    at.query("CREATE DATABASE logs")
    at.query("""
        CREATE TABLE logs.lines (
            time DateTime64(9), level LowCardinality(String), host LowCardinality(String),
            message String CODEC(ZSTD(1)), line String CODEC(ZSTD(1)),
            INDEX words message TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 4
        ) ENGINE = MergeTree ORDER BY time""")
    began_s = cpu_s()
    at.query(f"""
        INSERT INTO logs.lines SELECT parseDateTime64BestEffort(JSONExtractString(line, 'time'), 9),
            JSONExtractString(line, 'level'), JSONExtractString(line, 'host'), JSONExtractString(line, 'message'), line
        FROM file('{lines}', 'LineAsString', 'line String')""")
    used_s = cpu_s() - began_s
    at.query("OPTIMIZE TABLE logs.lines FINAL")
    asked = (
        f"SELECT line FROM logs.lines WHERE host = '{HOST}' AND level = 'error' ORDER BY time DESC LIMIT 100",
        f"SELECT line FROM logs.lines WHERE message LIKE '%{PHRASE}%' ORDER BY time DESC LIMIT 100",
        f"SELECT line FROM logs.lines WHERE hasToken(message, '{WORD}') ORDER BY time DESC LIMIT 100",
        "SELECT toStartOfInterval(time, INTERVAL 30 MINUTE) AS at, level, count() FROM logs.lines GROUP BY at, level",
    )
    told = {name: p50_ms(lambda sql=sql: at.query(sql, "JSONEachRow")) for name, sql in zip(QUESTIONS, asked)}
    size = at.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'logs'", "CSV")
    return {
        "name": f"ClickHouse (chDB {chdb.__version__})",
        "mb_s_core": raw_bytes / 1e6 / used_s,
        "disk": int(str(size)) / raw_bytes,
        "p50_ms": told,
    }


def sqlite(lines, folder, raw_bytes):
    path = os.path.join(folder, "lines.db")
    db = sqlite3.connect(path)
    db.executescript("""
        PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
        CREATE TABLE lines (time INTEGER, level TEXT, host TEXT, line TEXT);
        CREATE VIRTUAL TABLE words USING fts5(message, content='');""")
    began_s = cpu_s()
    with open(lines, encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            of = json.loads(line)
            db.execute("INSERT INTO lines VALUES (?, ?, ?, ?)", (number, of["level"], of["host"], line))
            db.execute("INSERT INTO words (rowid, message) VALUES (?, ?)", (number, of["message"]))
            if number % 50_000 == 0:
                db.commit()
    db.executescript("CREATE INDEX by_level ON lines (level, time); CREATE INDEX by_host ON lines (host, level, time);")
    db.commit()
    used_s = cpu_s() - began_s
    newest = "SELECT line FROM words JOIN lines ON lines.rowid = words.rowid WHERE words MATCH ? ORDER BY words.rowid DESC LIMIT 100"
    asked = (
        ("SELECT line FROM lines WHERE host = ? AND level = 'error' ORDER BY time DESC LIMIT 100", (HOST,)),
        (newest, (f'"{PHRASE}"',)),
        (newest, (WORD,)),
        ("SELECT time / 900000, level, count(*) FROM lines GROUP BY 1, 2", ()),
    )
    told = {name: p50_ms(lambda sql=sql: db.execute(*sql).fetchall()) for name, sql in zip(QUESTIONS, asked)}
    db.close()
    return {
        "name": f"SQLite {sqlite3.sqlite_version} with FTS5",
        "mb_s_core": raw_bytes / 1e6 / used_s,
        "disk": os.path.getsize(path) / raw_bytes,
        "p50_ms": told,
    }


def ripgrep(lines, folder, raw_bytes):
    packed = os.path.join(folder, "lines.zst")
    subprocess.run(["zstd", "--quiet", "-3", lines, "-o", packed], check=True)
    program = shutil.which("rg")
    if not program:
        return {"name": "ripgrep (`apt-get install ripgrep`)", "missing": True}

    def ask(*words):
        subprocess.run([program, "--count", "--fixed-strings", *words], check=False, stdout=subprocess.DEVNULL)

    told = {
        "newest 100 with a phrase": p50_ms(lambda: ask(PHRASE, lines)),
        "a rare word": p50_ms(lambda: ask(WORD, lines)),
        "a rare word, in zstd": p50_ms(lambda: ask("--search-zip", WORD, packed)),
    }
    return {"name": "ripgrep and zstd -3", "disk": os.path.getsize(packed) / raw_bytes, "p50_ms": told}


def main(lines, folder):
    raw_bytes = os.path.getsize(lines)
    told = []
    for name, measure in (("clickhouse", clickhouse), ("sqlite", sqlite), ("ripgrep", ripgrep)):
        place = os.path.join(folder, name)
        os.makedirs(place)
        told.append(measure(lines, place, raw_bytes))
        shutil.rmtree(place)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
