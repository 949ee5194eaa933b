"""Elasticsearch and OpenSearch: `POST /{index}/_search`.

The hits stand in `hits.hits`, best first, each with `_id` and `_score`. `_score` is null where the request sorts by
something else (unless `track_scores`), and then undefined here; the order still counts. Inner hits and aggregations are
not looked at. Two indices may hold the same `_id`; the later hit is then a duplicate. `_msearch` holds several answers
in one and is not of this protocol.

A search that a shard failed, or that ran out of its `timeout`, still answers 200, with fewer hits: compared as it is.

Source: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-search,
https://docs.opensearch.org/latest/api-reference/search-apis/search/.
"""

from __future__ import annotations

from shadowproxy.compare.presets.sample import Sample


def detect(sample: Sample) -> str | None:
    """`hits.hits` is a list of objects with an `_id`; of an empty one, `_shards` stands beside it."""
    answer = sample.response
    outer = answer.get("hits") if isinstance(answer, dict) else None
    hits = outer.get("hits") if isinstance(outer, dict) else None
    if not isinstance(answer, dict) or not isinstance(hits, list):
        return None
    if not hits:
        return "`hits.hits` (empty) beside `_shards`" if "_shards" in answer else None
    return "`hits.hits` with `_id`" if all(isinstance(hit, dict) and "_id" in hit for hit in hits) else None
