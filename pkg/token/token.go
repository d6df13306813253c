// Package token reads, makes, checks and stores the tokens that machines join
// a cluster with, and encrypts with the cluster's token what servers share
// through the datastore.
//
// A token is written in one of these forms, all of them k3s's:
//
//	K10<hash of the cluster's CA>::<user>:<password>   full form
//	K10<hash of the cluster's CA>::<id>.<secret>       full form of a bootstrap token
//	<password>, <user>:<password>                      short form
//	<id>.<secret>                                      bootstrap token
//
// The user is "server" for a token that joins servers and agents and "node"
// for one that joins agents only. The full form pins the CA: a joining machine
// compares it before it sends the password to anyone. The short form trusts
// whoever answers.
//
// The package does not authenticate anybody, keeps no bootstrap tokens (those
// are Secrets in the cluster), and runs nothing.
package token

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

// The users of a password token.
const (
	UserServer = "server" // joins servers and agents
	UserNode   = "node"   // joins agents
)

const (
	prefix    = "K10"
	separator = "::"
	hashLen   = 64 // hex digits of a SHA-256 sum
	redacted  = "(redacted)"

	passwordBytes = 16 // of randomness in a generated password
	idLen         = 6  // of a bootstrap token
	secretLen     = 16 // of a bootstrap token
)

// Token is a parsed token. The zero value means "none given".
//
// Printing or marshalling it shows everything but the secret; Reveal gives the
// text with the secret. The secret is behind a pointer because fmt prints the
// unexported fields of a struct without asking their methods.
type Token struct {
	caHash string // 64 lower-case hex digits, or empty in the short form
	user   string // of a password token: server, node, or empty
	id     string // of a bootstrap token
	secret *string
}

// New makes a token of the short form from a password.
func New(user, password string) (Token, error) {
	if user != "" && user != UserServer && user != UserNode {
		return Token{}, fmt.Errorf("token user %q is neither %q nor %q", user, UserServer, UserNode)
	}
	if err := checkPassword(password); err != nil {
		return Token{}, err
	}
	return Token{user: user, secret: &password}, nil
}

// Generate makes a server token with a random password of 128 bits.
func Generate() Token {
	raw := make([]byte, passwordBytes)
	rand.Read(raw) // never fails: crypto/rand stops the process instead
	password := hex.EncodeToString(raw)
	return Token{user: UserServer, secret: &password}
}

// GenerateBootstrap makes a random bootstrap token, without creating it in any
// cluster.
func GenerateBootstrap() Token {
	secret := randomText(secretLen)
	return Token{id: randomText(idLen), secret: &secret}
}

// randomText draws n characters of a-z and 0-9, each equally likely.
func randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(alphabet) // a byte at or above this would favour the first letters
	out := make([]byte, 0, n)
	for raw := make([]byte, 2*n); len(out) < n; {
		rand.Read(raw)
		for _, b := range raw {
			if int(b) < fair && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}

// Parse reads a token of any form. White space around it, such as the newline
// of a file, does not count. The error never contains the text.
func Parse(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}, errors.New("token is empty")
	}
	if !strings.HasPrefix(text, prefix) {
		return parseCredentials(text)
	}
	hash, credentials, found := strings.Cut(text[len(prefix):], separator)
	if !found {
		return Token{}, fmt.Errorf("token begins with %s but has no %q: a part of it is missing, copy the whole line of server/token", prefix, separator)
	}
	hash = strings.ToLower(hash)
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != hashLen/2 {
		return Token{}, fmt.Errorf("token has %d characters between %s and %q where the %d hex digits of a CA hash belong: copy the whole line of server/token", len(hash), prefix, separator, hashLen)
	}
	t, err := parseCredentials(credentials)
	if err != nil {
		return Token{}, err
	}
	t.caHash = hash
	return t, nil
}

func parseCredentials(text string) (Token, error) {
	if id, secret, ok := cutBootstrap(text); ok {
		return Token{id: id, secret: &secret}, nil
	}
	if user, password, found := strings.Cut(text, ":"); found {
		if user != UserServer && user != UserNode {
			return Token{}, fmt.Errorf("token has a colon, but before it is neither %q nor %q: use a password without a colon", UserServer, UserNode)
		}
		return New(user, password)
	}
	return New("", text)
}

// cutBootstrap recognises a bootstrap token (kubernetes
// k8s.io/cluster-bootstrap/token/api/types.go, BootstrapTokenPattern).
func cutBootstrap(text string) (id, secret string, ok bool) {
	m := regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`).FindStringSubmatch(text)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// checkPassword refuses what cannot travel in a header, a flag or a file line.
func checkPassword(password string) error {
	if password == "" {
		return errors.New("token has an empty password")
	}
	for _, r := range password {
		if r <= ' ' || r > '~' {
			return errors.New("token password has a space, a control character or a character outside ASCII: use letters, digits and punctuation")
		}
	}
	return nil
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.secret == nil }

// IsBootstrap reports whether t is a bootstrap token.
func (t Token) IsBootstrap() bool { return t.id != "" }

// ID is the public part of a bootstrap token, empty for others.
func (t Token) ID() string { return t.id }

// CAHash is the pinned hash, empty for the short form.
func (t Token) CAHash() string { return t.caHash }

// User is the user of a password token, empty when the short form names none.
func (t Token) User() string { return t.user }

// Password is the secret of a password token, and empty for a bootstrap token.
func (t Token) Password() string {
	if t.secret == nil || t.IsBootstrap() {
		return ""
	}
	return *t.secret
}

// Bearer is what a bootstrap token authenticates with, id and secret, and
// empty for a password token.
func (t Token) Bearer() string {
	if !t.IsBootstrap() {
		return ""
	}
	return t.id + "." + *t.secret
}

// As returns t for another user. A bootstrap token has none and stays as it is.
func (t Token) As(user string) Token {
	if !t.IsBootstrap() {
		t.user = user
	}
	return t
}

// SameSecret reports whether t and other carry the same secret, whatever their
// form and user, in a time that does not depend on where they differ.
func (t Token) SameSecret(other Token) bool {
	if t.IsZero() || other.IsZero() {
		return t.IsZero() && other.IsZero()
	}
	return t.id == other.id && subtle.ConstantTimeCompare([]byte(*t.secret), []byte(*other.secret)) == 1
}

// Reveal writes the token with its secret: the full form when it has a CA
// hash, else the short one. It is empty for the zero Token.
func (t Token) Reveal() string {
	if t.IsZero() {
		return ""
	}
	return t.text(*t.secret)
}

// String writes the token with its secret replaced.
func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	return t.text(redacted)
}

func (t Token) text(secret string) string {
	var b strings.Builder
	if t.caHash != "" {
		b.WriteString(prefix + t.caHash + separator)
	}
	switch {
	case t.IsBootstrap():
		b.WriteString(t.id + ".")
	case t.user != "":
		b.WriteString(t.user + ":")
	}
	b.WriteString(secret)
	return b.String()
}

// Format implements fmt.Formatter: every verb prints what String gives.
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// MarshalText implements encoding.TextMarshaler with what String gives.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
