// Command pki writes the local cluster's certificates into a folder: ca.crt, and the administrator's admin.crt and
// admin.key, which also are the API server's.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A clock that is set back, or a cluster that is left up, must not end it.
const years = 10

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: pki FOLDER"))
	}
	if err := write(os.Args[1]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func write(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	authority := template(1, pkix.Name{CommonName: "local-ca"})
	authority.IsCA = true
	authority.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	admin := template(2, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	admin.KeyUsage = x509.KeyUsageDigitalSignature
	admin.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	admin.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	admin.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	adminKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	for _, each := range []struct {
		name        string
		certificate *x509.Certificate
		key         *ecdsa.PrivateKey
	}{{"ca.crt", authority, authorityKey}, {"admin.crt", admin, adminKey}} {
		der, err := x509.CreateCertificate(rand.Reader, each.certificate, authority, &each.key.PublicKey, authorityKey)
		if err != nil {
			return err
		}
		if err := writePEM(filepath.Join(folder, each.name), "CERTIFICATE", der); err != nil {
			return err
		}
	}
	// As PKCS 8 the API server would not take it as the key of ServiceAccount tokens.
	der, err := x509.MarshalECPrivateKey(adminKey)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(folder, "admin.key"), "EC PRIVATE KEY", der)
}

func template(serial int64, subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               subject,
		NotBefore:             now.AddDate(-1, 0, 0),
		NotAfter:              now.AddDate(years, 0, 0),
		BasicConstraintsValid: true,
	}
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
