"""Elasticsearch's own Python client against the appliance: its check of the product, its bulk helper, searches and errors."""

import datetime
import os

from elasticsearch import BadRequestError, Elasticsearch, NotFoundError, helpers

client = Elasticsearch(os.environ["BACKLOT_ENDPOINT"] + "/es", basic_auth=("test", "test"), max_retries=0)


def equal(found, expected, what=""):
    assert found == expected, f"{what}: found {found!r}, expected {expected!r}"


def sources(answer):
    return [hit["_source"] for hit in answer["hits"]["hits"]]


equal(client.info()["version"]["number"], "8.11.0")
equal(client.cluster.health(wait_for_status="yellow")["status"], "green")

begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=5)
lines = [
    {
        "@timestamp": (begin + datetime.timedelta(milliseconds=at)).isoformat(),
        "message": f"frame {at} took {at * 2} ms",
        "level": "error" if at % 50 == 0 else "info",
        "took_ms": at * 2,
        "shot": {"name": f"s{at % 3}"},
    }
    for at in range(2000)
]
done, failed = helpers.bulk(client, ({"_index": "render", "_op_type": "create", **line} for line in lines), chunk_size=700)
equal((done, failed), (2000, []))
client.index(index="edit", document={"message": "a cut", "@timestamp": begin.isoformat()})

equal(client.count(index="render")["count"], 2000)
equal(client.count(index="render", query={"term": {"level": "error"}})["count"], 40)
answer = client.search(
    index="render", size=3, query={"bool": {"filter": [{"term": {"level": "error"}}, {"range": {"took_ms": {"lt": 3000}}}]}},
    sort=[{"@timestamp": "desc"}], source=["message"], track_total_hits=True,
)
equal(sources(answer), [{"message": f"frame {at} took {at * 2} ms"} for at in (1450, 1400, 1350)])
equal(answer["hits"]["total"], {"value": 30, "relation": "eq"})
answer = client.search(index="render", size=2, query={"match_phrase": {"message": "frame 77"}}, fields=["took_ms", "shot.*"], source=False)
equal([hit["fields"] for hit in answer["hits"]["hits"]], [{"took_ms": [154], "shot.name": ["s2"]}])

# All of them, page by page, in the order of a number.
seen, after = [], None
while True:
    page = client.search(index="render", size=300, sort=[{"took_ms": "desc"}], search_after=after, source=["took_ms"])["hits"]["hits"]
    if not page:
        break
    seen += [hit["_source"]["took_ms"] for hit in page]
    after = page[-1]["sort"]
equal(seen, [at * 2 for at in reversed(range(2000))])

# All of them by a scroll, as the client's helper reads everything, and by their ids.
scanned = list(helpers.scan(client, index="render", query={"_source": ["took_ms"]}, size=300))
equal(sorted(hit["_source"]["took_ms"] for hit in scanned), [at * 2 for at in range(2000)])
some = sorted(scanned, key=lambda hit: hit["_id"])[::400]
for query in ({"ids": {"values": [hit["_id"] for hit in some] + ["no-id"]}}, {"terms": {"_id": [hit["_id"] for hit in some]}}):
    answer = client.search(index="render", query=query, source=["took_ms"])
    equal(sorted((hit["_id"], hit["_source"]["took_ms"]) for hit in answer["hits"]["hits"]), [(hit["_id"], hit["_source"]["took_ms"]) for hit in some])
one = {"bool": {"filter": [{"ids": {"values": [some[2]["_id"]]}}, {"match_phrase": {"message": f"frame {some[2]['_source']['took_ms'] // 2}"}}]}}
equal(client.count(index="render", query=one)["count"], 1)

# Oldest first, with what arrives meanwhile left out; cleared, it is gone.
page = client.search(index="render", scroll="1m", size=900, sort=[{"@timestamp": "asc"}], source=["took_ms"])
client.index(index="render", document={"message": "late", "@timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat()})
seen = []
while page["hits"]["hits"]:
    equal(page["hits"]["total"]["value"], 2000)
    seen += [hit["_source"]["took_ms"] for hit in page["hits"]["hits"]]
    page = client.scroll(scroll_id=page["_scroll_id"], scroll="1m")
equal(seen, [at * 2 for at in range(2000)])
equal(client.clear_scroll(scroll_id=page["_scroll_id"]).body, {"succeeded": True, "num_freed": 1})
try:
    client.scroll(scroll_id=page["_scroll_id"])
    raise AssertionError("a cleared scroll goes on")
except NotFoundError as refused:
    equal(refused.body["error"]["type"], "search_context_missing_exception")

# As Grafana's Explore asks for one index among all, and for what is not within a range of time.
for asked, found in [
    ("_index:render", 2001), ('_index:"edit" AND cut', 1), ("_index:ren* -level:info", 41), ('NOT _index:(render OR edit) AND "frame 7 took"', 0),
    ("_index:render AND @timestamp:[now-1h TO now]", 2001), ("_index:render AND @timestamp:<now-1h", 0), ("_index:render AND *:*", 2001),
    (f"_id:{some[0]['_id']}", 1),
]:
    equal(client.count(query={"query_string": {"query": asked}})["count"], found, asked)
late = {"range": {"@timestamp": {"gte": (begin + datetime.timedelta(milliseconds=1500)).isoformat()}}}
equal(client.count(index="render", query={"bool": {"must_not": [late]}})["count"], 1500)
equal(client.count(query={"bool": {"filter": [{"terms": {"_index": ["render", "none"]}}], "must_not": [late, {"term": {"level": "error"}}]}})["count"], 1470)

answer = client.search(index="render", size=0, typed_keys=True, rest_total_hits_as_int=True, aggs={"shots": {"terms": {"field": "shot.name"}}})
equal((answer["hits"]["total"], list(answer["aggregations"])), (2001, ["sterms#shots"]))

answer = client.search(
    index="render", size=0,
    aggs={"shots": {"terms": {"field": "shot.name", "order": {"_key": "asc"}}, "aggs": {
        "most": {"max": {"field": "took_ms"}},
        "half": {"bucket_script": {"buckets_path": {"most": "most"}, "script": "params.most / 2"}},
    }}},
)
found = {bucket["key"]: (bucket["doc_count"], bucket["half"]["value"]) for bucket in answer["aggregations"]["shots"]["buckets"]}
equal(found, {f"s{shot}": (len(range(shot, 2000, 3)), max(range(shot, 2000, 3))) for shot in range(3)})
equal(client.indices.get_mapping(index="render")["render"]["mappings"]["properties"]["took_ms"], {"type": "long"})
equal([bool(client.indices.exists(index=name)) for name in ("render", "none")], [True, False])
equal(client.indices.get(index="render")["render"]["mappings"]["properties"]["took_ms"], {"type": "long"})
equal(client.indices.refresh(index="render")["_shards"]["failed"], 0)
equal(client.field_caps(index="*", fields=["message"])["fields"]["message"]["text"]["searchable"], True)
for error, call in [
    (NotFoundError, lambda: client.search(index="none")),
    (BadRequestError, lambda: client.search(index="render", query={"nonsense": {}})),
]:
    try:
        call()
        raise AssertionError(f"no {error.__name__}")
    except error as refused:
        assert refused.body["error"]["root_cause"], refused
print("elasticsearch is as it should be")
