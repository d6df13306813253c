package token

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestSeal(t *testing.T) {
	plain := bytes.Repeat([]byte("server-ca.key "), 1000)
	sealed, err := Encrypt("s3cret", plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decrypt("s3cret", append(sealed, '\n')); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("not read back: %v", err)
	}
	if twin, err := Encrypt("s3cret", plain); err != nil || bytes.Equal(twin, sealed) {
		t.Errorf("the same twice: %v", err)
	}
	if _, err := Encrypt("", plain); err == nil {
		t.Error("encrypted with nothing")
	}
	if got, err := Encrypt("s3cret", nil); err != nil {
		t.Error(err)
	} else if back, err := Decrypt("s3cret", got); err != nil || len(back) != 0 {
		t.Errorf("nothing came back as %q, %v", back, err)
	}
	if bytes.ContainsAny(sealed, " \n") || bytes.Contains(sealed, []byte("server-ca")) {
		t.Error("the form is not one line, or shows the plaintext")
	}
}

func TestUnsealRefuses(t *testing.T) {
	sealed, err := Encrypt("s3cret", []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(sealed)
	fields := strings.Split(text, ".")
	with := func(i int, value string) string {
		changed := append([]string(nil), fields...)
		changed[i] = value
		return strings.Join(changed, ".")
	}
	last := fields[3]
	flipped := "A" + last[1:]
	if last[0] == 'A' {
		flipped = "B" + last[1:]
	}
	tests := []struct {
		name, passphrase, data string
		other                  string // part of an error that is not ErrDecrypt
	}{
		{"another passphrase", "s3cret2", text, ""},
		{"ciphertext changed", "s3cret", with(3, flipped), ""},
		{"ciphertext cut off", "s3cret", with(3, last[:4]), ""},
		{"ciphertext not base64", "s3cret", with(3, "?"), ""},
		{"salt changed", "s3cret", with(2, encode(make([]byte, saltSize))), ""},
		{"salt not base64", "s3cret", with(2, "?"), ""},
		{"iterations changed", "s3cret", with(1, "100001"), ""},
		{"iterations written differently", "s3cret", with(1, "0100000"), ""},
		{"iterations without end", "s3cret", with(1, "1000000000000"), ""},
		{"iterations negative", "s3cret", with(1, "-1"), ""},
		{"not ours", "s3cret", "hello", "does not begin with knarr-sealed-1"},
		{"a newer form", "s3cret", with(0, "knarr-sealed-2"), "newer version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decrypt(tt.passphrase, []byte(tt.data))
			switch {
			case err == nil:
				t.Error("accepted")
			case tt.other == "" && !errors.Is(err, ErrDecrypt), tt.other != "" && !strings.Contains(err.Error(), tt.other):
				t.Errorf("got %v", err)
			}
		})
	}
}

func BenchmarkDecrypt(b *testing.B) {
	sealed, err := Encrypt("s3cret", make([]byte, 10_000))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Decrypt("s3cret", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
