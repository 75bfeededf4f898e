import pytest

from runtimed.execution.confinement.references import UnknownReference, references, resolve

VALUES = {
    "secret:github": "ghp_value",
    "gateway:openai": "http://127.0.0.1:3129",
    "gateway-key:openai": "throwaway",
    "gateway:anthropic": "http://127.0.0.1:3130",
}


def test_references_are_replaced_and_all_else_stays() -> None:
    env = {
        "GITHUB_TOKEN": "secret:github",
        "OPENAI_BASE_URL": "gateway:openai",
        "OPENAI_API_KEY": "gateway-key:openai",
        "PLAIN": "a value",
        "URL": "https://secret:github@example.com",
    }

    assert resolve(env, VALUES) == {
        "GITHUB_TOKEN": "ghp_value",
        "OPENAI_BASE_URL": "http://127.0.0.1:3129",
        "OPENAI_API_KEY": "throwaway",
        "PLAIN": "a value",
        "URL": "https://secret:github@example.com",
    }
    assert references(env) == {"secret:github", "gateway:openai", "gateway-key:openai"}


def test_references_in_braces_are_replaced_within_a_text() -> None:
    env = {
        "CONFIG": '{"url": "${gateway:openai}/v1", "key": "${gateway-key:openai}", "home": "${HOME}"}',
        "URL": "https://${secret:github}@example.com",
        "TWICE": "${secret:nested}",
    }

    assert resolve(env, {**VALUES, "secret:nested": "${secret:github}"}) == {
        "CONFIG": '{"url": "http://127.0.0.1:3129/v1", "key": "throwaway", "home": "${HOME}"}',
        "URL": "https://ghp_value@example.com",
        "TWICE": "${secret:github}",
    }
    assert references(env) == {"gateway:openai", "gateway-key:openai", "secret:github", "secret:nested"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a ${secret:gitlab}", "env.NAME: there is no secret 'gitlab', expected one of: github"),
        ("secret:gitlab", "env.NAME: there is no secret 'gitlab', expected one of: github"),
        ("gateway:x", "env.NAME: there is no gateway 'x', expected one of: anthropic, openai"),
        ("gateway-key:", "env.NAME: there is no gateway-key '', expected one of: openai"),
        ("secret:a\nb", r"env.NAME: there is no secret 'a\nb', expected one of: github"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(value: str, said: str) -> None:
    with pytest.raises(UnknownReference) as refused:
        resolve({"PLAIN": "a", "NAME": value}, VALUES)

    assert str(refused.value) == said
    assert "ghp_value" not in said


def test_a_name_is_refused_where_nothing_is_configured() -> None:
    with pytest.raises(UnknownReference, match=r"expected one of: \(none is configured\)"):
        resolve({"NAME": "secret:a"}, {})
