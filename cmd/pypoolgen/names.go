package main

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// initialisms are the words that Go writes in one case, those of staticcheck's list, and their
// plurals.
var initialisms = map[string]string{}

func init() {
	for word := range strings.FieldsSeq("ACL API ASCII CPU CSS DB DNS EOF GID GUID HTML HTTP HTTPS ID IP JSON QPS RAM RPC " +
		"SIP SLA SMTP SQL SSH TCP TLS TTL UDP UI UID URI URL UTF8 UUID VM XML XMPP XSRF XSS") {
		initialisms[word] = word
	}
	for word := range strings.FieldsSeq("API DB ID IP URI URL UUID VM") {
		initialisms[word+"S"] = word + "s"
	}
}

// exported makes an exported Go name of a Python name, or of any text: user_id and userId become
// UserID, RED becomes Red.
func exported(name string) string {
	constant := strings.ToUpper(name) == name
	var b strings.Builder
	for _, word := range words(name) {
		if known, ok := initialisms[strings.ToUpper(word)]; ok {
			b.WriteString(known)
			continue
		}
		if constant {
			word = strings.ToLower(word)
		}
		for i, r := range word {
			if i == 0 {
				r = unicode.ToUpper(r)
			}
			b.WriteRune(r)
		}
	}
	out := b.String()
	if first, _ := utf8.DecodeRuneInString(out); !unicode.IsUpper(first) {
		return "X" + out
	}
	return out
}

// words cuts a name at everything that Go allows in no name, at underscores, and where case
// changes: HTTPServer2 is HTTP, Server2.
func words(name string) []string {
	var found []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			found = append(found, string(word))
		}
		word = nil
	}
	runes := []rune(name)
	for i, r := range runes {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			end()
			continue
		}
		if i > 0 && unicode.IsUpper(r) {
			afterLower := !unicode.IsUpper(runes[i-1])
			beforeLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			plural := i+2 == len(runes) && runes[i+1] == 's' // IDs
			if afterLower || beforeLower && !plural {
				end()
			}
		}
		word = append(word, r)
	}
	end()
	return found
}

// scope gives every name once.
type scope map[string]bool

// claim returns the first of the names that is free, or else the last with a number behind it.
func (s scope) claim(names ...string) string {
	for _, name := range names {
		if !s[name] {
			s[name] = true
			return name
		}
	}
	last := names[len(names)-1]
	for i := 2; ; i++ {
		if name := last + strconv.Itoa(i); !s[name] {
			s[name] = true
			return name
		}
	}
}

// className is the Go name of a class: that of the class inside its functions, Page[str] as
// PageStr.
func className(name string) string {
	if i := strings.LastIndex(name, "<locals>."); i >= 0 {
		name = name[i+len("<locals>."):]
	}
	return exported(name)
}

// moduleOf is the last part of the module in a key like app.models.User, which ends in the class's
// name.
func moduleOf(key, name string) string {
	if i := strings.IndexByte(name, '['); i >= 0 {
		name = name[:i]
	}
	module, _, _ := strings.Cut(strings.TrimSuffix(key, inputSuffix), "."+name)
	return module[strings.LastIndexByte(module, '.')+1:]
}

// validTag reports whether encoding/json takes the name from a struct tag.
func validTag(name string) bool {
	for _, r := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return name != ""
}
