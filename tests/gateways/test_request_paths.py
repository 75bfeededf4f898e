import pytest

from runtimed.gateways.request_paths import InvalidPath, PathPattern, RequestPath


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("/responses", ["/responses"], ["/responses/", "/responses/a", "/response", "/", "/RESPONSES"]),
        ("/", ["/"], ["/a"]),
        ("/*", ["/a", "/a/b", "/a/"], ["/"]),
        ("/models/*", ["/models/a", "/models/a/b"], ["/models/", "/models", "/model/a"]),
        ("/models/gpt-*", ["/models/gpt-5", "/models/gpt-5/a"], ["/models/gpt-", "/models/a"]),
        ("/models/*:generate", ["/models/a:generate"], ["/models/:generate", "/models/a/b:generate", "/models/a"]),
        ("/*/files/*/content", ["/a/files/b/content"], ["/a/b/files/c/content", "/a/files//content"]),
        ("/a b/é", ["/a b/é"], ["/a%20b/é"]),
    ],
)
def test_a_star_stands_for_the_rest_at_the_end_and_for_a_part_of_a_segment_elsewhere(
    pattern: str, fitting: list[str], others: list[str]
) -> None:
    read = PathPattern.parse(pattern)

    assert [path for path in (*fitting, *others) if read.matches(path)] == fitting
    assert str(read) == pattern


@pytest.mark.parametrize("text", ["", "responses", "/a//b", "/../a", "/a*b*", "/a?b=c", "/a%2fb", "/a\nb"])
def test_a_pattern_that_is_none_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a path|a \* at the end") as refused:
        PathPattern.parse(text)

    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/", "/"),
        ("/a/", "/a/"),
        ("/%61%2Db", "/a-b"),
        ("/a%3Fb%23c?d=%2F&e", "/a%3Fb%23c?d=%2F&e"),
        ("/a?", "/a"),
        ("/a?b?c=../..", "/a?b?c=../.."),
        ("/100%25", "/100%25"),
        ("/%C3%A9", "/%C3%A9"),
        ("/...;a", "/...;a"),
    ],
)
def test_a_path_is_encoded_again_as_it_was_read(target: str, sent: str) -> None:
    assert RequestPath.parse(target).encoded == sent


@pytest.mark.parametrize(
    "target", ["", "*", "a:443", "/a#b", "/a?b#c", "/a?b c", "/\u00e9", "/a?\udcff", "/%2e", "/;/../a"]
)
def test_a_target_that_is_no_plain_path_is_refused(target: str) -> None:
    with pytest.raises(InvalidPath, match="expected a path of visible ASCII"):
        RequestPath.parse(target)
