"""Solr's JSON: `GET` or `POST /solr/{collection}/select`, `wt=json` (the default since Solr 7).

The documents stand in `response.docs`, best first, each with the fields that `fl` asked for. A `score` is among them
only where `fl` names it (`fl=id,score`); without it scores are undefined and the order alone counts. `id` is the unique
key of the default schema; a collection with another one needs `ids` of its own. Grouped answers (`grouped`) are not of
this form.

Source: https://solr.apache.org/guide/solr/latest/query-guide/response-writers.html.
"""

from __future__ import annotations

from shadowproxy.compare.presets.sample import Sample


def detect(sample: Sample) -> str | None:
    """`response.docs` is a list beside `response.numFound`."""
    answer = sample.response.get("response") if isinstance(sample.response, dict) else None
    if isinstance(answer, dict) and isinstance(answer.get("docs"), list) and "numFound" in answer:
        return "`response.docs` beside `numFound`"
    return None
