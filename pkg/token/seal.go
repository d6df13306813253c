package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrDecrypt says that data was encrypted with another passphrase, or is
// damaged: the cipher cannot tell which.
var ErrDecrypt = errors.New("cannot be decrypted: it was encrypted with another token, or is damaged")

const (
	sealMagic = "knarr-sealed-1"
	// sealIterations is the PBKDF2 work factor. A generated token carries 128
	// bits of randomness and needs none; this is for passwords people choose,
	// and bounded by what a start on a small machine can afford. It is written
	// with the data, so it may be raised without making old data unreadable.
	sealIterations = 100_000
	// maxIterations bounds what Decrypt does at the wish of its input.
	maxIterations = 10_000_000

	saltSize = 16
	keySize  = 32 // AES-256
)

// Encrypt encrypts plaintext with AES-256-GCM under a key that PBKDF2 with
// HMAC-SHA-256 derives from passphrase and a fresh salt. The result is one line
// of text without spaces: magic, iterations, salt, nonce with ciphertext.
func Encrypt(passphrase string, plaintext []byte) ([]byte, error) {
	if passphrase == "" {
		return nil, errors.New("encrypt with token: the passphrase is empty")
	}
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails: crypto/rand stops the process instead
	gcm, err := newGCM(passphrase, salt, sealIterations)
	if err != nil {
		return nil, fmt.Errorf("encrypt with token: %w", err)
	}
	header := strings.Join([]string{sealMagic, strconv.Itoa(sealIterations), encode(salt), ""}, ".")
	// With a random nonce the cipher writes it before the ciphertext itself.
	sealed := gcm.Seal(nil, nil, plaintext, []byte(header))
	return []byte(header + encode(sealed)), nil
}

// Decrypt undoes Encrypt. The error wraps ErrDecrypt when the passphrase is not
// the one it was encrypted with.
func Decrypt(passphrase string, data []byte) ([]byte, error) {
	fields := strings.Split(strings.TrimSpace(string(data)), ".")
	if len(fields) != 4 || fields[0] != sealMagic {
		return nil, fmt.Errorf("decrypt with token: the data does not begin with %s: it was not encrypted by knarr, or by a newer version", sealMagic)
	}
	iterations, err := strconv.Atoi(fields[1])
	if err != nil || iterations < 1 || iterations > maxIterations {
		return nil, fmt.Errorf("decrypt with token: %w (iterations %q)", ErrDecrypt, fields[1])
	}
	salt, err := base64.RawURLEncoding.DecodeString(fields[2])
	if err != nil {
		return nil, fmt.Errorf("decrypt with token: %w (salt: %w)", ErrDecrypt, err)
	}
	sealed, err := base64.RawURLEncoding.DecodeString(fields[3])
	if err != nil {
		return nil, fmt.Errorf("decrypt with token: %w (ciphertext: %w)", ErrDecrypt, err)
	}
	gcm, err := newGCM(passphrase, salt, iterations)
	if err != nil {
		return nil, fmt.Errorf("decrypt with token: %w", err)
	}
	header := strings.Join(append(fields[:3:3], ""), ".")
	plaintext, err := gcm.Open(nil, nil, sealed, []byte(header))
	if err != nil {
		return nil, fmt.Errorf("decrypt with token: %w", ErrDecrypt)
	}
	return plaintext, nil
}

func newGCM(passphrase string, salt []byte, iterations int) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, iterations, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
