"""Problems of MultiPL-E's HumanEval solved by hand: task number -> what completes its prompt. Some prompts' tests begin
with the closing brace of the function, so a completion has it only where they do not (JavaScript)."""

from __future__ import annotations

SOLUTIONS: dict[str, dict[int, str]] = {
    "js": {
        23: "  return string.length;\n}",
        53: "  return x + y;\n}",
        27: "  return [...string].map(c => c === c.toUpperCase() ? c.toLowerCase() : c.toUpperCase()).join('');\n}",
        35: "  return Math.max(...l);\n}",
        55: "  let a = 0, b = 1;\n  for (let i = 0; i < n; i++) [a, b] = [b, a + b];\n  return a;\n}",
        42: "  return l.map(x => x + 1);\n}",
        48: "  return [...text].reverse().join('') === text;\n}",
        52: "  return l.every(x => x < t);\n}",
        45: "  return a * h / 2;\n}",
        13: "  while (b) [a, b] = [b, a % b];\n  return a;\n}",
        28: "  return strings.join('');\n}",
    },
    "sh": {
        23: "    echo ${#1}",
        53: "    echo $(($1 + $2))",
        35: "    m=; for x in $1; do if [ -z \"$m\" ] || [ $x -gt $m ]; then m=$x; fi; done; echo $m",
        55: "    a=0; b=1; for ((i = 0; i < $1; i++)); do c=$((a + b)); a=$b; b=$c; done; echo $a",
        42: "    out=; for x in $1; do out=\"$out $((x + 1))\"; done; echo $out",
        48: "    [ \"$(echo -n \"$1\" | rev)\" = \"$1\" ] && echo true || echo false",
        31: "    n=$1; if [ $n -lt 2 ]; then echo false; return; fi\n"
            "    for ((i = 2; i * i <= n; i++)); do\n"
            "    if [ $((n % i)) = 0 ]; then echo false; return; fi; done; echo true",
        52: "    for x in $1; do if [ $x -ge $2 ]; then echo false; return; fi; done; echo true",
        13: "    a=$1; b=$2; while [ $b -gt 0 ]; do c=$((a % b)); a=$b; b=$c; done; echo $a",
        60: "    echo $(($1 * ($1 + 1) / 2))",
        3: "    s=0; for x in $1; do s=$((s + x)); if [ $s -lt 0 ]; then echo true; return; fi; done; echo false",
    },
    "cpp": {
        23: "    return string.size();",
        53: "    return x + y;",
        35: "    return *std::max_element(l.begin(), l.end());",
        55: "    long a = 0, b = 1;\n    for (long i = 0; i < n; i++) { long c = a + b; a = b; b = c; }\n    return a;",
        42: "    for (auto& x : l) x++;\n    return l;",
        48: "    return std::string(text.rbegin(), text.rend()) == text;",
        31: "    for (long i = 2; i * i <= n; i++) if (n % i == 0) return false;\n    return n > 1;",
        52: "    for (auto x : l) if (x >= t) return false;\n    return true;",
        45: "    return a * h / 2.0;",
        13: "    while (b) { long c = a % b; a = b; b = c; }\n    return a;",
        60: "    return n * (n + 1) / 2;",
    },
    "java": {
        23: "        return string.length();",
        53: "        return x + y;",
        35: "        return Collections.max(l);",
        55: "        long a = 0, b = 1;\n"
            "        for (long i = 0; i < n; i++) { long c = a + b; a = b; b = c; }\n        return a;",
        48: "        return new StringBuilder(text).reverse().toString().equals(text);",
        31: "        for (long i = 2; i * i <= n; i++) if (n % i == 0) return false;\n        return n > 1;",
        52: "        for (long x : l) if (x >= t) return false;\n        return true;",
        45: "        return a * h / 2.0f;",
        13: "        while (b != 0) { long c = a % b; a = b; b = c; }\n        return a;",
        60: "        return n * (n + 1) / 2;",
    },
    "rs": {
        23: "    string.len() as isize",
        53: "    x + y",
        35: "    *l.iter().max().unwrap()",
        55: "    let (mut a, mut b) = (0, 1);\n    for _ in 0..n { let c = a + b; a = b; b = c; }\n    a",
        42: "    l.iter().map(|x| x + 1).collect()",
        48: "    text.chars().rev().collect::<String>() == text",
        31: "    let mut i = 2;\n    while i * i <= n { if n % i == 0 { return false; } i += 1; }\n    n > 1",
        52: "    l.iter().all(|x| *x < t)",
        45: "    (a * h) as f64 / 2.0",
        13: "    let (mut a, mut b) = (a, b);\n    while b != 0 { let c = a % b; a = b; b = c; }\n    a",
        60: "    n * (n + 1) / 2",
    },
}  # fmt: skip
