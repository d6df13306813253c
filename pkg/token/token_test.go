package token

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	tests := []struct {
		text                             string
		caHash, user, password, id, full string
	}{
		{text: "K10" + hash + "::server:s3cret", caHash: hash, user: "server", password: "s3cret"},
		{text: "K10" + hash + "::node:s3cret", caHash: hash, user: "node", password: "s3cret"},
		{text: "K10" + hash + "::server:a:b::c", caHash: hash, user: "server", password: "a:b::c"},
		{text: "K10" + hash + "::s3cret", caHash: hash, password: "s3cret"},
		{text: "K10" + hash + "::abc123.0123456789abcdef", caHash: hash, id: "abc123"},
		{text: "s3cret", password: "s3cret"},
		{text: "server:s3cret", user: "server", password: "s3cret"},
		{text: "abc123.0123456789abcdef", id: "abc123"},
		{text: "abc123.0123456789abcde", password: "abc123.0123456789abcde"}, // one too short
		{text: "k10", password: "k10"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := Parse(" " + tt.text + "\n")
			if err != nil {
				t.Fatal(err)
			}
			if got.CAHash() != tt.caHash || got.User() != tt.user || got.Password() != tt.password || got.ID() != tt.id {
				t.Errorf("got hash %q user %q password %q id %q", got.CAHash(), got.User(), got.Password(), got.ID())
			}
			if got.IsBootstrap() != (tt.id != "") || got.IsZero() {
				t.Errorf("bootstrap %t, zero %t", got.IsBootstrap(), got.IsZero())
			}
			if tt.id != "" && got.Bearer() != tt.id+".0123456789abcdef" {
				t.Errorf("bearer %q", got.Bearer())
			}
			if tt.id == "" && got.Bearer() != "" {
				t.Errorf("a password token has the bearer %q", got.Bearer())
			}
			if got.Reveal() != tt.text {
				t.Errorf("written as %q", got.Reveal())
			}
		})
	}
	upper, err := Parse("K10" + strings.ToUpper(hash) + "::server:s3cret")
	if err != nil || upper.CAHash() != hash {
		t.Errorf("upper-case hash: %q, %v", upper.CAHash(), err)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", " \n", "token is empty"},
		{"cut off behind the prefix", "K10" + hash, `has no "::"`},
		{"hash cut off", "K10" + hash[1:] + "::server:hunter2", "63 characters"},
		{"hash not hex", "K10" + hash[1:] + "x::server:hunter2", "64 hex digits"},
		{"no credentials", "K10" + hash + "::", "empty password"},
		{"no password", "K10" + hash + "::server:", "empty password"},
		{"another user", "K10" + hash + "::admin:hunter2", "use a password without a colon"},
		{"colon in a short password", "hunter2:x", "use a password without a colon"},
		{"two lines", "server:hunter2\nserver:hunter2", "space, a control character"},
		{"not ASCII", "hunter2é", "outside ASCII"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q in it", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := New("admin", "x"); err == nil {
		t.Error("New takes any user")
	}
}

func TestGenerate(t *testing.T) {
	seen := map[string]bool{}
	bootstrap := regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	server := regexp.MustCompile(`^server:[0-9a-f]{32}$`)
	for range 200 {
		for _, g := range []struct {
			token Token
			form  *regexp.Regexp
		}{{Generate(), server}, {GenerateBootstrap(), bootstrap}} {
			text := g.token.Reveal()
			if !g.form.MatchString(text) || seen[text] {
				t.Fatalf("generated %q, seen before: %t", text, seen[text])
			}
			seen[text] = true
			if parsed, err := Parse(text); err != nil || !parsed.SameSecret(g.token) || parsed.IsBootstrap() != g.token.IsBootstrap() {
				t.Fatalf("%q is not read back: %v", text, err)
			}
		}
	}
}

// TestSecretDoesNotShow prints a token, and what holds one, in every way that
// logs and errors do.
func TestSecretDoesNotShow(t *testing.T) {
	for _, text := range []string{"K10" + hash + "::server:hunter2", "hunter2", "abc123.hunter2hunter2ab"} {
		token, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		inner := struct {
			Exported Token
			hidden   Token
		}{token, token}
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+verb, token, inner)
			fmt.Fprintf(&out, verb, []any{&token, map[string]Token{"a": token}})
		}
		marshalled, err := json.Marshal(map[string]any{"t": token, "i": inner})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(marshalled)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "t", token, "i", inner)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "t", token, "i", inner)
		for _, secret := range []string{"hunter2", fmt.Sprintf("%x", "hunter2")} {
			if strings.Contains(out.String(), secret) {
				t.Errorf("%s shows in:\n%s", secret, out.String())
			}
		}
	}
	token := Generate()
	if token.String() != "server:(redacted)" || (Token{}).String() != "" || (Token{}).Reveal() != "" {
		t.Errorf("printed as %q", token)
	}
}

func TestSameSecret(t *testing.T) {
	parse := func(text string) Token {
		token, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	tests := []struct {
		a, b Token
		want bool
	}{
		{parse("x"), parse("K10" + hash + "::node:x"), true},
		{parse("x"), parse("y"), false},
		{parse("x"), Token{}, false},
		{Token{}, Token{}, true},
		{parse("abc123.0123456789abcdef"), parse("abc124.0123456789abcdef"), false},
	}
	for _, tt := range tests {
		if tt.a.SameSecret(tt.b) != tt.want || tt.b.SameSecret(tt.a) != tt.want {
			t.Errorf("%v and %v: want %t", tt.a, tt.b, tt.want)
		}
	}
}

// FuzzParse: what is read is written the same, and errors keep the secret.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"K10" + hash + "::server:x", "a.b", "abc123.0123456789abcdef", "node:x", "K10::", "::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(token.Reveal())
		if err != nil || again.Reveal() != token.Reveal() || !again.SameSecret(token) {
			t.Errorf("%q was read as %q, and that as %q, %v", text, token.Reveal(), again.Reveal(), err)
		}
	})
}
