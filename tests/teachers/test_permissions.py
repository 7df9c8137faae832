"""Where a recipe may send texts and a key: only to where the user says."""

import pytest

from kdcli.errors import RecipeError, UsageError
from kdcli.recipe import endpoint_urls
from kdcli.recipe.black_box_teachers import LLMTeacherConfig
from kdcli.teachers.permissions import resolve_api_key


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    monkeypatch.delenv("KD_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY", "HF_TOKEN", "MINE"):
        monkeypatch.setenv(name, f"value-of-{name}")


def key(url, variable="OPENAI_API_KEY", allow=()):
    return resolve_api_key(LLMTeacherConfig(url=url, model="m", api_key_env=variable), allow)


@pytest.mark.parametrize(
    ("url", "variable", "allow"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", ["api.openai.com"]),
        ("https://API.OpenAI.com:443/v1", "OPENAI_API_KEY", ["api.OPENAI.com"]),
        ("https://api.mistral.ai/v1", "MISTRAL_API_KEY", ["x.example", "api.mistral.ai"]),
        ("https://llm.example/v1", "MINE", ["llm.example=MINE"]),
        ("https://llm.example/v1", "HF_TOKEN", ["llm.example=MINE", "llm.example=HF_TOKEN"]),
        ("http://127.0.0.1:8000/v1", "OPENAI_API_KEY", []),
        ("http://localhost:8000/v1", "OPENAI_API_KEY", []),
        ("http://[::1]:8000/v1", "MINE", ["::1=MINE"]),
    ],
)
def test_a_key_goes_where_the_user_says(url, variable, allow):
    assert key(url, variable, allow) == f"value-of-{variable}"


@pytest.mark.parametrize(
    ("url", "variable", "allow", "names"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", [], "teacher.url"),
        ("https://api.openai.com.evil.example/v1", "OPENAI_API_KEY", ["api.openai.com"], "url"),
        ("https://api.openai.com/v1", "HF_TOKEN", ["api.openai.com"], "api_key_env"),
        ("https://llm.example/v1", "OPENAI_API_KEY", ["llm.example"], "api_key_env"),
        ("https://llm.example/v1", "HF_TOKEN", ["llm.example=MINE"], "api_key_env"),
        ("http://localhost:8000/v1", "HF_TOKEN", [], "api_key_env"),
        ("https://localhost.evil.example/v1", None, [], "teacher.url"),
        ("https://127.0.0.1.evil.example/v1", None, [], "teacher.url"),
        ("https://llm.example/v1", None, [], "teacher.url"),
    ],
)
def test_a_recipe_allows_itself_nothing(url, variable, allow, names):
    with pytest.raises(RecipeError, match=names) as error:
        key(url, variable, allow)
    assert "value-of" not in str(error.value)


def test_texts_alone_need_consent_too_and_no_key_is_no_secret(monkeypatch):
    assert key("https://llm.example/v1", None, ["llm.example"]) is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert key("https://llm.example/v1", allow=["llm.example"]) is None


@pytest.mark.parametrize("variable", ["KD_CONFIG", "XDG_CONFIG_HOME"])
def test_the_user_s_configuration_allows(tmp_path, monkeypatch, variable):
    file = tmp_path / "kd/config.yaml"
    file.parent.mkdir()
    file.write_text("allow_endpoints: [llm.example, other.example=MINE]\n")
    monkeypatch.setenv(variable, str(file if variable == "KD_CONFIG" else tmp_path))
    assert key("https://other.example/v1", "MINE") == "value-of-MINE"
    with pytest.raises(RecipeError, match="api_key_env"):
        key("https://llm.example/v1", "MINE")


@pytest.mark.parametrize(
    "content",
    ["- a\n- [", "allow_endpoint: [a.example]", "allow_endpoints: a.example", "- 1", "7", "\x00"],
)
def test_a_configuration_that_says_something_else_is_refused(tmp_path, monkeypatch, content):
    (tmp_path / "config.yaml").write_text(content)
    monkeypatch.setenv("KD_CONFIG", str(tmp_path / "config.yaml"))
    with pytest.raises(UsageError, match=r"config\.yaml"):
        key("http://localhost/v1")


@pytest.mark.parametrize("allow", ["https://a.example", "a.example:443", "a.example=", "a b", ""])
def test_what_is_no_host_is_refused(allow):
    with pytest.raises(UsageError, match="--allow-endpoint"):
        key("http://localhost/v1", allow=[allow])


@pytest.mark.parametrize("value", ["a\nb", "a b", "é", "a\x00b"])
def test_a_key_that_no_header_takes_is_not_shown(monkeypatch, value):
    from os import environ

    monkeypatch.setattr("os.environ", {**environ, "MINE": value})
    with pytest.raises(UsageError, match="MINE") as error:
        key("http://localhost/v1", "MINE", ["localhost=MINE"])
    assert value not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://llm.example/v1",
        "http://10.0.0.5:8000/v1",
        "https://llm.example/v1?api_key=s3cret",
        "https://llm.example/v1#s3cret",
        "https://user:s3cret@llm.example/v1",
        "https://localhost\\@evil.example/v1",
        "https://localhost\n.evil.example/v1",
        "https://llm.example/v1\n",
        "https://llm.example:99999/v1",
        "https://llm.example /v1",
        "ftp://llm.example/v1",
        "https:///v1",
        f"https://{'a' * 64}.example/v1",
    ],
)
def test_an_address_that_is_not_sound_is_refused(url):
    with pytest.raises(ValueError) as error:
        endpoint_urls.validate_endpoint_url(url)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.openai.com/v1", "api.openai.com"),
        ("https://llm.corp.example/secret/v1", "a private endpoint"),
        ("http://localhost:8000/v1", "a private endpoint"),
        ("https://10.0.0.5/v1", "a private endpoint"),
    ],
)
def test_only_a_known_provider_is_published(url, shown):
    assert endpoint_urls.publishable_endpoint_host(url) == shown
