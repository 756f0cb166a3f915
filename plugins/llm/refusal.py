"""What a provider's refusal asks of a person: to wait, to pay or renew, to mend the configuration, or the request.

The table holds the codes and words that providers and gateways use; docs/llm.md says what follows from each kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .delay import said_delay
from .envelope import ProviderError

if TYPE_CHECKING:
    from .answer import Kind


class _Meaning(NamedTuple):
    """`codes`, without punctuation, decide whatever the status; `words` beside a status that tells nothing, or with
    `strong` always."""

    kind: Kind
    codes: frozenset[str]
    words: re.Pattern[str]
    strong: bool


def _meaning(kind: Kind, codes: str, *words: str, strong: bool = False) -> _Meaning:
    return _Meaning(kind, frozenset(codes.split()), re.compile("|".join(words), re.IGNORECASE), strong)


#: Parameters that the configuration sets, for every row alike, and what says that one is wrong.
_BOUND = r"\bmax_?(completion_?|output_?|new_?)?tokens\b"
_PARAMETER = (
    rf"({_BOUND}|\b(temperature|top_?[pk]|(frequency|presence|repetition)_penalty|response_format|stream_options"
    r"|reasoning_effort|budget_tokens|tool_choice|logprobs)\b)"
)
_FAULT = (
    r"\b(invalid|unsupported|unavailable|range|at most|above|too (large|high)|exceeds?|greater|less|maximum|must|should"
    r"|only|not (supported|allowed|valid))\b|非法|有误|范围"
)

#: The first that fits decides: what concerns one request stands before what concerns the account.
_TABLE: Sequence[_Meaning] = (
    _meaning(
        "rejected",
        "contextlengthexceeded stringabovemaxlength requesttoolarge maxtokensperrequest",
        r"context (length|window)|(prompt|input|request|messages?)( is| are)? too (long|large)|reduce the length",
        r"too many (input )?tokens(?!.{0,20}(please wait|per (day|minute)))",  # Bedrock asks to wait with 429
        r"tokens? (count|limit)\b.{0,40}\bexceed|exceed\w*\b.{0,40}\btokens? (count|limit)",
        r"input length|tokens must be reduced|max_new_tokens|(输入|上下文).{0,12}(过长|超长|超出|超过)",
        # A prompt that leaves no room for the answer is no fault of the configuration.
        rf"\b(prompts?|inputs?|messages?)\b.{{0,60}}{_BOUND}|{_BOUND}.{{0,80}}\b(prompt|input)",
        r"max_tokens must be at least",
        strong=True,
    ),
    _meaning(
        "content_filter",
        "contentfilter contentpolicyviolation datainspectionfailed responsibleaipolicyviolation moderationblocked"
        " sensitivecontentdetected inputtextsensitivecontentdetected invalidprompt",
        r"content exists risk|content (management|filter)|content.policy|inappropriate content|\bflagged\b|敏感内容",
        r"\bnew_sensitive\b",
        r"\b(prompt|input|content|message)s?\b.{0,60}\b(violat|unsafe|harmful|prohibited|moderation)",
        r"(内容|输入|提示).{0,12}(敏感|违规|不合规|不安全|审核)",
    ),
    _meaning(
        "rate_limited",
        "throttling throttlingratequota throttlingallocationquota throttlingburstrate ratelimitexceeded"
        " ratelimitreachederror ratelimiterror ratelimited toomanyrequests limitrequests limitburstrate",
        # DashScope's limit of tokens per minute has the code insufficient_quota, too.
        r"allocated quota exceeded|error-code#(token|rate)-limit|too many requests|rate limit|请求过于频繁|访问量过大",
        r"(qps|rate|request) limit reached",
        strong=True,
    ),
    _meaning(
        "no_credit",
        "insufficientquota insufficientuserquota insufficientbalance insufficientcredits insufficientcredit"
        " insufficientfunds arrearage accountoverdue accountoverdueerror prepaidbilloverdue postpaidbilloverdue"
        " commoditynotpurchased allocationquotafreetieronly billinghardlimitreached billingnotactive"
        " exceededcurrentquotaerror creditlimit creditlimitexceeded creditlimitreached budgetexceeded paymentrequired"
        " setlimitexceeded notenoughbalance billingdisabled",
        r"insufficient\w* (account |paid |api )?(balance|funds|credits?|quota)|quota is not enough|top up|recharge",
        r"balance (is |was |has been )?(insufficient|not enough|too low|exhausted)|exceeded your current quota",
        r"(no|any|more|out of|enough|purchase|add) credits|billing (hard limit|details)|good standing|\barrears?\b",
        r"not enough (balance|credits)|credits? (are|is|have been) (depleted|exhausted|used up)|spending limit",
        r"api usage limits|\btrial key\b|daily free allocation|billing to be enabled|no active subscription",
        r"budget has been exceeded|exceeded\w* budget|over budget|\boverdue\b|set inference limit",
        r"free (tier|quota|credit).{0,40}(exhausted|used up|expired)|余额|欠费|额度不足|额度已|充值|免费额度|资源包",
        strong=True,
    ),
    _meaning(
        "unauthorized",
        "invalidapikey apikeyinvalid incorrectapikey apikeyexpired invalidauthenticationerror authenticationerror"
        " accountdeactivated accountdisabled accountsuspended userdeactivated organizationrestricted"
        " organizationdisabled accessterminated keydisabled unauthenticated unauthorized appidnoautherror",
        r"api[ _-]?key\b.{0,30}\b(not valid|invalid|incorrect|wrong|expired|revoked|disabled|deleted|blocked)",
        r"(invalid|incorrect|wrong|expired|missing|no) api[ _-]?key|login fail",
        r"(location|region|country) is not supported|令牌.{0,20}(过期|无效|禁用)|无效的令牌",
        r"\b(account|organi[sz]ation|project|user|tenant)\b.{0,80}\b(deactivated|disabled|suspended|restricted|locked"
        r"|banned|blocked|closed|terminated|not active)|(账[号户]|用户).{0,8}(停用|封禁|冻结|锁定|禁用)",
    ),
    _meaning(
        "no_model",
        "modelnotfound modelnotexist modelnotavailable modeldecommissioned modeldeprecated modelretired"
        " modelnotsupported modelnotopen modelaccessdenied keymodelaccessdenied teammodelaccessdenied invalidmodel"
        " invalidmodelid unknownmodel unsupportedmodel deploymentnotfound invalidendpointnotfound"
        " invalidendpointormodelnotfound invalidendpointormodelmodelidaccessdisabled",
        r"\b(models?|modelcode|deployments?|engine|endpoint)\b.{0,120}?\b(not found|(do|does)( not|n't) exist|not exist"
        r"|no longer|decommissioned|deprecated|retired|discontinued|unknown|(not|isn't) (supported|available|allowed))",
        r"(invalid|unknown|unsupported|unrecognized|no such|not a valid|not found the) (model|deployment)\b",
        r"model not support|model identifier is invalid",
        r"invocation of model\b.{0,80}\bsupported|(specify|choose) (a )?different model",
        r"supported (api )?model names|no models? (is |are )?loaded|end of its life",
        r"no (endpoints|allowed providers)\b|unable to access (non-serverless )?model|try pulling it|无可用渠道",
        r"access to (the |this )?(model|deployment)|模型.{0,60}(不存在|已下线|不支持|未开通|无权|错误)",
    ),
    _meaning(
        "no_path",
        "unexpectedendpoint",
        # LM Studio answers with 200.
        r"unexpected endpoint or method|http request (was sent )?to (an |the )?https (port|server)|misdirected request",
        strong=True,
    ),
    _meaning(
        "bad_parameter",
        "unsupportedparameter unsupportedvalue unknownparameter extraforbidden",
        r"(unsupported|unknown|unrecognized|unexpected) (request )?(parameter|argument|field|keyword)",
        r"extra (inputs|fields)( are)? not permitted|extra_forbidden|not supported (with|by) this model",
        r"only supports? stream|enable_thinking|property '\w+' is unsupported",
        rf"{_PARAMETER}.{{0,120}}?({_FAULT})|({_FAULT}).{{0,80}}?{_PARAMETER}",
    ),
)

#: Statuses that say by themselves what is wrong, beside those from 500 on.
_CLEAR = {401, 402, 408, 409, 424, 425, 429, 499}
_BY_STATUS: dict[int, Kind] = {
    401: "unauthorized", 402: "no_credit", 403: "unauthorized", 404: "no_path", 405: "no_path", 407: "proxy",
    410: "no_model", 411: "no_path", 415: "no_path", 421: "no_path", 426: "no_path", 429: "rate_limited",
    431: "no_path", 451: "unauthorized", 497: "no_path", 498: "overloaded", 501: "no_path", 503: "overloaded",
    529: "overloaded",
}  # fmt: skip
#: Of the request itself; others below 500 are of something on the way, and no row is at fault.
_OF_THE_REQUEST = {400, 413, 414, 422}
_MODEL = re.compile(r"\b(models?|deployments?|engine)\b|模型", re.IGNORECASE)


def classify(status: int, error: ProviderError | None, words: str, model: str, prompts: Sequence[str] = ()) -> Kind:
    """The kind of a refusal; the status of an answer that turned out to be an error is 200.

    `words` are the error's, `model` is the name that was asked for. What the `prompts` say too may be a quotation, and
    decides nothing: one row must not pause a provider for all.
    """
    if status < 300 and error is not None and error.status is not None and error.status < 500:
        status = error.status
    ordinary = _by_status(status)
    clear = status in _CLEAR or status >= 500
    codes = {re.sub(r"[\W_]+", "", code) for code in error.codes} if error is not None else set()
    kind = next((row.kind for row in _TABLE if _fits(row, codes, words, clear, prompts)), None)
    if kind == "no_credit" and said_delay(words) is not None:
        kind = "rate_limited"  # Google's free tier: "exceeded your current quota ... Please retry in 37.8s"
    if kind == "rate_limited" and ordinary in ("overloaded", "unavailable"):
        return ordinary
    if kind is None and ordinary == "no_path" and (_MODEL.search(words) or _is_named(model, words)):
        return "no_model"
    return kind or ordinary


def _fits(row: _Meaning, codes: set[str], words: str, clear: bool, prompts: Sequence[str]) -> bool:
    if not codes.isdisjoint(row.codes):
        return True
    said = row.words.finditer(words) if row.strong or not clear else ()
    return any(not any(found[0] in prompt for prompt in prompts) for found in said)


def _by_status(status: int) -> Kind:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status < 300:
        return "error_in_answer"
    if status < 400:
        return "redirect"
    return "rejected" if status in _OF_THE_REQUEST else "unavailable"


def _is_named(model: str, words: str) -> bool:
    return bool(model) and re.search(rf"(?<![\w-]){re.escape(model)}(?![\w-])", words) is not None
