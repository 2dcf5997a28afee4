# Prints an apt source for another suite of the machine's distribution. It is made from the source of the machine's own
# suite: same host, same key. Prints nothing if there is no such source. Reads both formats of apt's files.
#
#   awk -v codename=bookworm -v suite=bookworm-backports -f .ci/sources.awk /etc/apt/sources.list /etc/apt/sources.list.d/*

function finish(  words, count, i) {
    count = split(value["suites"], words)
    for (i = 1; i <= count; i++)
        if (words[i] == codename && !printed && value["types"] ~ /(^|[ \t])deb([ \t]|$)/ && value["enabled"] !~ /no/) {
            print "Types: deb"
            print "URIs:" value["uris"]
            print "Suites: " suite
            print "Components: main"
            if ("signed-by" in value) print "Signed-By:" value["signed-by"]
            printed = 1
        }
    split("", value)
}

FNR == 1 { finish() }
/^#/ { next }
/^[ \t]*$/ { finish(); next }

# deb822: `Name: value`. Lines that begin with a space continue the value (for example a whole key).
/^[A-Za-z-]+:/ {
    colon = index($0, ":")
    name = tolower(substr($0, 1, colon - 1))
    value[name] = substr($0, colon + 1)
    next
}
/^[ \t]/ { value[name] = value[name] "\n" $0; next }

# The older format has one source per line: deb [name=value ...] uri suite component ...
$1 == "deb" {
    line = $0
    if (match(line, /\[[^]]*\]/)) {
        options = substr(line, RSTART, RLENGTH)
        line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
        if (match(options, /signed-by=[^] \t]+/)) value["signed-by"] = " " substr(options, RSTART + 10, RLENGTH - 10)
    }
    split(line, part)
    value["types"] = part[1]
    value["uris"] = " " part[2]
    value["suites"] = part[3]
    finish()
}

END { finish() }
